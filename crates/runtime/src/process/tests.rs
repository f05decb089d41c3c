//! Real children, all of them `/bin/sh`.

use super::*;
use crate::executor::block_on;
use crate::io::Options;

fn shell(script: &str) -> Command {
    Command::new("/bin/sh").arg("-c").arg(script)
}

fn on_core<F: Future>(future: F) -> F::Output {
    block_on(&Options::default(), future).unwrap()
}

#[test]
fn a_child_runs_to_its_end_with_its_output_and_status() {
    on_core(async {
        let finished = shell("echo one; echo two >&2; printf three; exit 3")
            .env("IGNORED", "1")
            .run()
            .await
            .unwrap();
        assert_eq!(finished.status.code(), Some(3));
        assert_eq!(finished.stdout, "one\nthree\n");
        assert_eq!(finished.stderr, "two\n");
    });
}

#[test]
fn environment_and_directory_are_as_asked() {
    on_core(async {
        let finished = shell("echo $NAME:$HOME; pwd")
            .env_clear()
            .env("NAME", "value")
            .current_dir("/usr")
            .run()
            .await
            .unwrap();
        assert_eq!(finished.stdout, "value:\n/usr\n");
    });
}

#[test]
fn a_program_that_is_not_there_is_an_error() {
    on_core(async {
        let error = Command::new("/nonexistent/program").run().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn a_signal_ends_a_child_and_none_is_sent_after_its_end() {
    use std::os::unix::process::ExitStatusExt;
    on_core(async {
        let child = Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        child.signal(Signal::Terminate).unwrap();
        let status = child.wait().await.unwrap();
        assert_eq!(status.signal(), Some(15));
        assert_eq!(child.wait().await.unwrap(), status, "the answer stays");
        child.signal(Signal::Terminate).unwrap();
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_process_that_is_not_our_child_can_be_ended() {
    on_core(async {
        let grandchild = Rc::new(Cell::new(0));
        let told = Rc::clone(&grandchild);
        let parent = Command::new("sh")
            .args(["-c", "sleep 600 >&- & echo $!"])
            .stdout(Output::lines(move |line| told.set(line.parse().unwrap())));
        let mut parent = parent.spawn().unwrap();
        parent.wait().await.unwrap();
        parent.output_end().await;
        let stranger = Stranger::with_pid(grandchild.get()).unwrap().expect("it sleeps");
        assert!(
            clock::timeout(std::time::Duration::from_millis(50), stranger.end()).await.is_err()
        );
        stranger.signal(Signal::Kill).unwrap();
        stranger.end().await.unwrap();
        stranger.signal(Signal::Kill).unwrap();
    });
}

#[test]
fn the_end_is_also_seen_where_there_is_no_pidfd() {
    on_core(async {
        let mut inner = std::process::Command::new("/bin/sh");
        let inner = inner.arg("-c").arg("sleep 0.05; exit 7").spawn().unwrap();
        let exit = Exit::by_thread(Pid::from_child(&inner)).unwrap();
        let child = Child {
            pid: Pid::from_child(&inner),
            inner: RefCell::new(inner),
            exited: Cell::new(None),
            exit,
            readers: Vec::new(),
            drop_signal: None,
        };
        assert_eq!(child.wait().await.unwrap().code(), Some(7));
    });
}

#[test]
fn output_arrives_while_the_child_runs() {
    on_core(async {
        let (sender, mut lines) = mailbox::channel(10);
        let child = shell("echo ready; exec sleep 1000")
            .stdout(Output::lines(move |line| sender.try_send(line.to_owned()).unwrap()))
            .signal_on_drop(Signal::Kill)
            .spawn()
            .unwrap();
        assert_eq!(lines.recv().await.as_deref(), Some("ready"));
        assert_eq!(child.try_wait().unwrap(), None);
    });
}

#[test]
fn much_output_does_not_stop_the_child() {
    on_core(async {
        let finished =
            shell("i=0; while [ $i -lt 3000 ]; do echo $i-0123456789012345678901234567890123456789; i=$((i+1)); done")
                .run()
                .await
                .unwrap();
        assert!(finished.status.success());
        assert_eq!(finished.stdout.lines().count(), 3000);
    });
}

#[test]
fn a_dropped_child_is_signalled_and_reaped() {
    on_core(async {
        let child =
            Command::new("/bin/sleep").arg("1000").signal_on_drop(Signal::Kill).spawn().unwrap();
        let pid = child.pid;
        drop(child);
        // Until the reaper has it the id still exists; afterwards nobody has it.
        while rustix::process::test_kill_process(pid).is_ok() {
            clock::sleep(std::time::Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn a_grandchild_holding_the_pipe_does_not_hold_up_the_end() {
    on_core(async {
        let finished = shell("sleep 1000 & echo $!").run().await.unwrap();
        assert!(finished.status.success());
        let grandchild = finished.stdout.trim().parse().ok().and_then(Pid::from_raw).unwrap();
        rustix::process::kill_process(grandchild, rustix::process::Signal::KILL).unwrap();
    });
}

#[test]
fn a_new_session_has_the_child_as_its_leader() {
    on_core(async {
        let finished =
            shell("cut -d' ' -f6 /proc/$$/stat; echo $$").new_session().run().await.unwrap();
        let ids: Vec<&str> = finished.stdout.lines().collect();
        assert_eq!(ids.len(), 2, "{}", finished.stdout);
        assert_eq!(ids[0], ids[1], "session and process are the same");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn the_user_changes_and_all_groups_with_it() {
    if !rustix::process::geteuid().is_root() {
        // Only root can try.
        return;
    }
    on_core(async {
        let finished = shell("id -u; id -g; id -G").user(65534, 65533).run().await.unwrap();
        assert_eq!(finished.stdout, "65534\n65533\n65533\n", "{}", finished.stderr);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_child_dies_with_the_thread_that_started_it() {
    let pid = thread::spawn(|| {
        on_core(async {
            let child =
                Command::new("/bin/sleep").arg("1000").death_signal(Signal::Kill).spawn().unwrap();
            let pid = child.pid;
            // Dropping starts a reaper; the thread's end is what kills the child.
            drop(child);
            pid
        })
    })
    .join()
    .unwrap();
    while rustix::process::test_kill_process(pid).is_ok() {
        thread::sleep(std::time::Duration::from_millis(1));
    }
}
