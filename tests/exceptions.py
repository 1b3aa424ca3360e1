"""Where the code is not yet as ``test_hygiene.py`` wants it. The list only shrinks: a test fails if
one of these is no longer needed, and whoever mended it takes it out.
"""

# "file > module" of imports that do not run downwards.
UPWARD = {
    "fingerprints > engine.prompts",
}

# "file > module" of imports by which the module comes back to the file.
CIRCLES = {
    "results.confirmation > results.interactions",
    "results.confirmation > results.printed",
    "results.confirmation > results.tables",
    "results.interactions > results.confirmation",
    "results.interactions > results.npz",
    "results.interactions > results.printed",
    "results.interactions > results.tables",
    "results.interactions > results.verdicts",
    "results.npz > results.interactions",
    "results.printed > results.interactions",
    "results.printed > results.verdicts",
    "results.tables > results.interactions",
    "results.verdicts > results.interactions",
}

# "file: name" of classes over 300 lines and functions over 60.
LONG = {
    "cli: _parser",
}

# How often a file asks hasattr, or getattr with a default, about a type of the package.
ASKED: dict[str, int] = {}
