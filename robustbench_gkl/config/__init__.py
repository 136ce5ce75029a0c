"""Configurations: the schema, recipes, ``key=value`` changes, and the command line that asks for one."""
