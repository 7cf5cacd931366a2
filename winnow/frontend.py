"""The one page of the browser's application: every path that no other route answers gets `index.html`."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

_NOT_BUILT = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Winnow</title>
<h1>The pages are not built yet</h1>
<p>The server runs, but <code>frontend/dist</code> is missing. Build it with</p>
<pre>python tools/frontend.py</pre>
<p>(<code>make run</code> does that by itself), then reload.</p>
<p>The API describes itself at <a href="/api/v1/schema">/api/v1/schema</a>.</p>
</html>
"""


@require_safe
@ensure_csrf_cookie
def index(request: HttpRequest) -> HttpResponse:
    """`index.html`, never cached: it names the hashed files of the newest build."""
    file = settings.FRONTEND_DIST / "index.html"
    try:
        response = HttpResponse(file.read_bytes())
    except FileNotFoundError:
        response = HttpResponse(_NOT_BUILT, status=503)
    response["Cache-Control"] = "no-cache"
    return response
