"""What `twistd` and `twist` list: the daemons."""

from twisted.application.service import ServiceMaker

server = ServiceMaker(
    "Telemeter server",
    "telemeter.tap.server",
    "Takes metrics pushed by agents and Prometheus servers, and forwards what is allowed.",
    "telemeter-server",
)
client = ServiceMaker(
    "Telemeter agent",
    "telemeter.tap.client",
    "Collects metrics from a Prometheus server and pushes them to a telemeter-server.",
    "telemeter-client",
)
authorizer = ServiceMaker(
    "Telemeter stub authorization server",
    "telemeter.tap.authorizer",
    "Says yes to the tokens in a file: for development, demos and tests.",
    "telemeter-authorizer",
)
demo_source = ServiceMaker(
    "Telemeter demo source",
    "telemeter.tap.demo_source",
    "Serves figures of this machine as a Prometheus would: for demos.",
    "telemeter-demo-source",
)
