"""What training may use beside the core: presets, Muon, faster products, several processes."""

from minidit import train
from minidit.training.matmul import fast_matmul
from minidit.training.muon import muon_and_adamw

train.OPTIMIZERS["muon"] = muon_and_adamw
train.matmul_backend = fast_matmul
