"""Training: clean, adversarial and hybrid, in one loop (section 4).

==============  ==================================================================================
``loop``        ``fit()``: draw, attack, score, update, guard, average, record, validate, save
``losses``      ``Loss``: whom a step attacks, how far and how hard
``visits``      how long an attack lasts: ``Fresh``, ``PerImage``, ``Pool(visits)``
``batches``     what a step draws, from (seed, step) alone
``update``      optimizer, learning rate, clipping, averaging; ``muon``: an optimizer
``validation``  held-out images; ``guard``: what ends a run early; ``checkpoints``: what is saved
==============  ==================================================================================
"""

from flowrob.training.checkpoints import Checkpoint, History
from flowrob.training.guard import Guard, TrainingDiverged
from flowrob.training.loop import fit
from flowrob.training.losses import Loss
from flowrob.training.muon import Muon
from flowrob.training.update import Update
from flowrob.training.validation import Validation
from flowrob.training.visits import Fresh, PerImage, Pool

__all__ = [
    "Checkpoint",
    "Fresh",
    "Guard",
    "History",
    "Loss",
    "Muon",
    "PerImage",
    "Pool",
    "TrainingDiverged",
    "Update",
    "Validation",
    "fit",
]
