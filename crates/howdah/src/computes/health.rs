//! Whether the processes of a compute are stopped. Nothing of theirs ends then by itself: a mount that hangs ends itself
//! by its watchdog, which is stopped along with it, and whoever waits for it would wait for ever.

use std::time::Duration;

use runtime::clock;
use runtime::fs::blocking as fs;
use runtime::process::Stranger;
use runtime::signal::Signal;

use super::process::Ready;
use crate::limits::{COMPUTE_STOPPED_MAX, COMPUTE_STOPPED_POLL};

/// Returns once the compute or its server has been stopped for too long.
pub(super) async fn hangs(ready: &Ready) {
    let mut stopped = Duration::ZERO;
    while stopped < COMPUTE_STOPPED_MAX {
        clock::sleep(COMPUTE_STOPPED_POLL).await;
        let is_stopped = [ready.pid, ready.postgres_pid].into_iter().any(is_stopped);
        stopped = if is_stopped { stopped + COMPUTE_STOPPED_POLL } else { Duration::ZERO };
    }
}

/// Ends a server that may be stopped: it would not take the signal by which its compute ends it.
pub(super) fn kill_server(ready: &Ready) {
    let server = Stranger::with_pid(ready.postgres_pid);
    let killed = server.and_then(|server| server.map_or(Ok(()), |it| it.signal(Signal::Kill)));
    if let Err(error) = killed {
        tracing::warn!(pid = ready.postgres_pid, %error, "could not end a server that hangs");
    }
}

/// State `T` of `/proc/PID/stat` (proc(5)): by SIGSTOP; a debugger's is `t`. Systems without that file tell us nothing.
fn is_stopped(pid: u32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    text.rsplit_once(") ").is_some_and(|(_name, rest)| rest.starts_with('T'))
}

#[cfg(test)]
mod tests {
    use runtime::executor::block_on;
    use runtime::io::Options;
    use runtime::process::{Command, Output};

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_stopped_process_is_seen_and_can_be_ended() {
        let done = block_on(&Options::default(), async {
            let child = Command::new("sleep").arg("600").stdout(Output::Null).spawn();
            let child = child.expect("it runs");
            let ready = Ready { postgres_pid: child.pid(), ..Ready::default() };
            assert!(!is_stopped(child.pid()));
            let stop = Command::new("kill").args(["-STOP", &child.pid().to_string()]);
            stop.spawn().expect("it runs").wait().await.expect("it ends");
            hangs(&ready).await;
            kill_server(&ready);
            child.wait().await.expect("it ended");
        });
        done.expect("a core");
    }
}
