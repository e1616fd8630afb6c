"""MNTD on digits: models with and without a backdoor, in answer to queries that shadow models taught."""

from dataclasses import replace

import torch

from gifthorse.bench.views import materials_of, view_of
from gifthorse.core.task import Task
from gifthorse.core.trojan import Trojan
