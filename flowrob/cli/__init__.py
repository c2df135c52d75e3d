"""The command line: ``flowrob``, or ``python -m flowrob``.

``commands``      the commands: train, attack, table, models
``recipes``       what they know by name: recipes of models, plans of tables
``runs``          a recipe trained, a model attacked
``side_by_side``  several recipes trained at a time
``paper_tables``  the paper's tables, ours beside them
"""

from flowrob.cli.commands import main

__all__ = ["main"]
