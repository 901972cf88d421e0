"""The command line: one file for each group of commands, a thin shell over the functions of the
other rooms.
Imports build, config, data, distributed, evaluation, report, run, sweeps and tasks.
"""
