"""The server put together.

`start_order` lists what runs in each process, in start order; it stops in the reverse order.
`endpoints` lists all routes, and makes what answers clients. `app` joins the two, and reloads.
`clients` are those of the servers that this one asks; `workers` are the processes of `--workers`.
"""
