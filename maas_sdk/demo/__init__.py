"""The demo, end to end on real data: train, quantize, export, package, start cold, call.

``maas demo`` runs it. ``run`` has the order of the stages, ``result`` their results,
``report`` the same as one HTML file. Nothing is imported here, so that ``maas --help`` stays light.
"""
