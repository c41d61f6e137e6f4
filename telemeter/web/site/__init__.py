"""The guarded HTTP site under the endpoints.

`channel` reads a request's head; `request` asks the gate of its route (`routing`) before the body
is read; the gate's admission (`admission`) takes the body or refuses it (`refused`); the route's
handler answers; the access log (`access_log`) gets the outcome. "The way of a sample" in
`docs/architecture.md` goes on from here to the upstream.
"""
