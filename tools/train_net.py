#!/usr/bin/env python3
"""Runs the program train_net with the same arguments, so that commands and launchers of the original keep working."""
from run_program import run

run("train_net")
