"""Small models of a set function, learned from masks and values: what ProxySPEX screens with."""
