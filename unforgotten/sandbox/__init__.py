"""Runs Python that nobody has read, or refuses."""

from unforgotten.sandbox.base import Outcome as Outcome
from unforgotten.sandbox.base import Sandbox as Sandbox
from unforgotten.sandbox.probe import open_sandbox as open_sandbox
