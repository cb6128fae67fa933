"""Flax nnx modules, with parameter names that sharding and quantization rules can match.

Every module computes in the dtype of the parameters and inputs it is handed; statistics of norms,
softmax and logits are float32 whatever that is. Names are a contract, in every architecture:

    embed/embedding                  [V, D]  tokens; also position_embed, type_embed
    layers/<i>/attention/query/kernel        [D, N·H]; also key, value [D, K·H] and out [N·H, D]
    layers/<i>/mlp/up/kernel         [D, F]; also gate [D, F] (gated ones only) and down [F, D]
    layers/<i>/attention_norm/scale  [D]; also mlp_norm; bias where the norm has one
    norm/scale                       [D], the last norm; embed_norm after the embeddings (BERT)
    pooler/kernel, transform/kernel  [D, D] (BERT: classifier, masked language model)
    head/kernel                      [D, V] or [D, classes]; absent where it is tied to embed
    hidden/<i>/kernel                [in, out], the layers of an MLP
    layers/<i>/<direction>/dense_i/kernel    [in, G·H]; dense_h [H, G·H] (LSTM: G 4, GRU: G 3)
    stem/conv/kernel                 [height, width, in, out]; also stem/norm
    stages/<s>/<b>/conv<n>/kernel    [height, width, in, out]; also norm<n>, shortcut/{conv,norm}

A kernel's last dimension is what it puts out; each may have a bias ``[out]`` beside it. With
``scan_layers`` there is one ``layers/attention/query/kernel [L, D, N·H]``: no ``<i>``, and the
layers stacked along a new first dimension.
"""

from maas_sdk.models.convnet import ConvNet, ConvNetConfig
from maas_sdk.models.huggingface_config import config_from_transformers
from maas_sdk.models.import_weights import load_weights
from maas_sdk.models.mlp import MLP, MLPConfig
from maas_sdk.models.presets import PRESETS, abstract_model, make_model, preset
from maas_sdk.models.recurrent import Recurrent, RecurrentConfig
from maas_sdk.models.resnet import ResNet, ResNetConfig
from maas_sdk.models.transformer import Decoder, Encoder
from maas_sdk.models.transformer_config import DecoderConfig, EncoderConfig

__all__ = [
    "MLP",
    "PRESETS",
    "ConvNet",
    "ConvNetConfig",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "MLPConfig",
    "Recurrent",
    "RecurrentConfig",
    "ResNet",
    "ResNetConfig",
    "abstract_model",
    "config_from_transformers",
    "load_weights",
    "make_model",
    "preset",
]
