"""The search page: what `python -m twinlens serve` shows in a browser.

`shelf` keeps indexes open, `answers` asks them, `markup` writes what they said, `page` wires it to Gradio's
components, `server` puts it on a port of this machine and `guard` lets in only what the page itself asks for.
"""
