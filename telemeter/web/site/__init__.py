"""The guarded HTTP site under the endpoints: channel, request, routing, bodies."""
