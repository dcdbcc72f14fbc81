"""Runs Python that nobody has read, or refuses."""

from unforgotten.evaluation.sandbox.base import Sandbox as Sandbox
from unforgotten.evaluation.sandbox.probe import open_sandbox as open_sandbox
from unforgotten.evaluation.sandbox.program import ProgramOutcome as ProgramOutcome
