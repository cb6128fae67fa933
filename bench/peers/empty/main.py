"""The empty function: what every Python function pays before its own first line."""

import functions_framework


@functions_framework.http
def predict(request):
    return b"ok"
