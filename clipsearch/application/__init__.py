"""Templates of the application package: ``clipsearch.appwriter`` renders them, ``vespa_app/`` is the 512-d result.

They live inside the package because an installed wheel has no ``vespa_app/`` next to it. A template's name is the
file's name in the package plus ``.txt``; ``${name}`` marks what the writer fills in.
"""
