"""The guarded HTTP site under the endpoints.

The way of a request, from the first byte of its head to the upstream, for `POST /upload`:

1. `Channel.dataReceived` (`channel.py`) has Twisted parse what came, one request in a turn.
   `Channel._check_progress` hangs up on heads and bodies that come too slowly.
2. `Request.gotLength` (`request.py`): the headers are complete, the body is unread. It finds the
   route, checks form, method and, for operators, `Guard.check` (`guard.py`), and asks the gate.
   Without a body the handler asks it, with `admit` (`admission.py`).
3. `UploadEndpoint.gate` (`web/upload.py`) decides by the headers: who sends it, with
   `TokenVerifier.verify` (`auth/token.py`); whether it may come now, with `RateLimiter.take`
   (`limits/ratelimit.py`) and, where replicas share the limit, `SharedSlot` (`limits/replicas.py`);
   its format, and its length. It raises `Refused` (`refused.py`), and the answer goes out at once;
   or it returns an admission, which takes the body.
4. `Request.handleContentChunk` gives the body, piece by piece, to `BoundedBody.write` (`body.py`),
   which keeps to a limit, and to the sender's share of what is held (`limits/inflight.py`).
5. `Request.requestReceived`: the body is complete. From here on the answer has its deadline
   (`routing.py`), and the route's handler is called.
6. `UploadEndpoint.post` (`web/upload.py`) decompresses and converts the body, with
   `UploadConverter` (`convert/engine.py`), here or in a thread (`loop/threads.py`).
7. It hands the result to `Forwarder.forward` (`upstream/forwarder.py`), which joins it with others
   (`upstream/batch.py`) and sends it to the upstream with `exchange` (`net/exchange.py`); or to
   `Store.forward` (`store/store.py`), without --forward-url.
8. `Request.finish` sends the answer, counts and logs it, and tells the site's observers.

`ReceiveEndpoint` (`web/receive.py`), which takes remote write, has a gate and a handler for steps 3
and 6; the rest is the same. A file without a folder is in this one; the others are in `telemeter/`.
"""
