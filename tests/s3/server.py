"""An S3 server on a free port of loopback, for tests: moto, which keeps everything in memory.

It prints its port and serves until it is killed. One request is handled at a time: moto looks whether an object
exists before it writes it, which with threads would not be the atomic conditional write that S3 has.
"""

import logging

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=False)
print(server.port, flush=True)
server.serve_forever()
