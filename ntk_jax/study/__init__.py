"""Growing length on trial: every way of it against constant length."""

from ntk_jax.study.arms import ARMS, Arm
from ntk_jax.study.job import study
from ntk_jax.study.settings import StudyConfig, tiny

__all__ = ['ARMS', 'Arm', 'StudyConfig', 'study', 'tiny']
