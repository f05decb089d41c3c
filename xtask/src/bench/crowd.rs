//! Many connections that do nothing: what each costs, and whether the active ones among them are treated alike.

use std::time::{Duration, Instant};

use super::client::Client;
use super::load;
use super::measure::{Cpu, resident_kib};
use super::options::Options;
use super::plan::{Cell, Figures, Workload};
use super::server::Server;
use super::target::{Entry, Target};

/// Clients that become active once all are connected.
const ACTIVE: usize = 500;

/// On a freshly started pooler: memory per idle connection, CPU to open one, CPU of all being idle, then
/// latency and fairness of 500 active ones beside the rest.
pub(crate) fn measure(
    options: &Options,
    server: &Server,
    target: &mut Target,
    clients: usize,
) -> Result<Figures, String> {
    target.stop();
    let port = target.open(Entry::Trust)?;
    let pid = target.pid(Entry::Trust).ok_or("not a pooler")?;
    let active = ACTIVE.min(clients / 2);
    let base = resident_kib(pid).ok_or("no resident memory")?;
    let (before, began) = (Cpu::of(pid).ok_or("no CPU time")?, Instant::now());
    let mut idle = Vec::new();
    for number in 0..clients {
        let client = Client::open(port, "bench", "bench");
        idle.push(client.map_err(|error| format!("after {number} connections: {error}"))?);
    }
    let opened = Cpu::of(pid).ok_or("it ended")?;
    let seconds = began.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_secs(1));
    let full = resident_kib(pid).ok_or("it ended")?;
    let (quiet, quiet_began) = (Cpu::of(pid).ok_or("it ended")?, Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let rested = Cpu::of(pid).ok_or("it ended")?;
    let idle_ms = rested.since(quiet).total() * 1000.0 / quiet_began.elapsed().as_secs_f64();
    idle.truncate(clients - active);
    std::thread::sleep(Duration::from_millis(500));
    let run =
        load::start(options, server, port, Cell { workload: Workload::Crowd, clients: active })?;
    let window = run.watch(options.seconds);
    let transactions = run.finish()?;
    drop(idle);
    let mut figures = load::summary(&transactions, &window, active)?;
    figures.insert("longest_wait_over_median", figures["max_ms"] / figures["p50_ms"]);
    figures.insert("kib_per_idle", (full - base) / clients as f64);
    figures.insert("rss_mib", full / 1024.0);
    figures.insert("open_cpu_us", opened.since(before).total() / clients as f64 * 1e6);
    figures.insert("opened_per_s", clients as f64 / seconds);
    figures.insert("idle_cpu_ms_per_s", idle_ms);
    target.stop();
    Ok(figures)
}
