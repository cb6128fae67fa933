"""Model compression, and measurements of its effect on answers, size and speed.

    from maas_sdk.compress import quantize
    from maas_sdk.export import export

    quantized = quantize(model, "int8", evaluate=(inputs, labels))
    print(quantized.report.table())
    export(quantized, inputs[:8], path="digits-int8.maas")

``recipes`` lists the recipes, ``formats`` the stored formats, ``products`` the arithmetic of the
program, and ``quantized_model`` the ways to serve it.
"""

from maas_sdk.compress.allocate import CANDIDATES, Sensitivity, sensitivity
from maas_sdk.compress.program.formats import Format
from maas_sdk.compress.program.quantized_model import QuantizedModel
from maas_sdk.compress.program.quantized_weight import Activations
from maas_sdk.compress.program.recipes import RECIPES, SUMMARIES, Recipe, find_recipe
from maas_sdk.compress.program.report import LayerReport, QuantizationReport
from maas_sdk.compress.quantize import quantize
from maas_sdk.compress.report_page import report_page

__all__ = [
    "CANDIDATES",
    "RECIPES",
    "SUMMARIES",
    "Activations",
    "Format",
    "LayerReport",
    "QuantizationReport",
    "QuantizedModel",
    "Recipe",
    "Sensitivity",
    "find_recipe",
    "quantize",
    "report_page",
    "sensitivity",
]
