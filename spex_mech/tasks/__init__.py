"""Prompts and a metric: the named tasks, prompt files, and single texts.

A task is made for a model, whose vocabulary and tokenizer decide what can be asked.
Nothing here ablates anything.
"""

from spex_mech.tasks.named import TASKS, load_task
from spex_mech.tasks.text import text_task

__all__ = ["TASKS", "load_task", "text_task"]
