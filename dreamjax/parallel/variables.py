"""What the environment says of a run of several processes; read without JAX by the parent that sets it."""

COORDINATOR = "DREAMJAX_COORDINATOR"  # HOST:PORT of process 0, or auto
COUNT = "DREAMJAX_PROCESSES"
INDEX = "DREAMJAX_PROCESS"
LOCAL_DEVICES = "DREAMJAX_LOCAL_DEVICES"  # GPUs of a host that has one process
JOIN = "DREAMJAX_JOIN_SECONDS"  # how long processes wait for each other at the start
HEARTBEAT = "DREAMJAX_HEARTBEAT_SECONDS"  # how long one may be silent before it counts as gone

AGAIN = "start the same command again: the run continues from its last saved step"
