"""Where the code is not yet as ``test_hygiene.py`` wants it: nowhere. What is listed here is let
pass; a test fails if one of these is no longer needed, and whoever mended it takes it out.
"""

UPWARD: set[str] = set()  # "file > module" of imports that do not run downwards
CIRCLES: set[str] = set()  # "file > module" of imports by which the module comes back to the file
LONG: set[str] = set()  # "file: name" of classes over 300 lines and functions over 60
ASKED: dict[str, int] = {}  # how often a file asks hasattr about a type of the package
