"""The search page: routes, templates, and the guard with its limits of uploads (`guard.py`).

`shelf` keeps indexes open, `answers` asks them, `markup` writes what they said, `bodies` reads what the browser asks,
and `page` answers it. `routes` says where, in whose turn (`turns`); `guard` lets in only what the page itself asks
for, by names that are ours (`hosts`). `server` puts it on a port of this machine, and `watchdog` ends it.
"""
