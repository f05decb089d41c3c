//! What a core costs: CPU of a proxy per forwarded round trip, ours beside raw loops and tokio, and the
//! memory of an idle connection. `cargo bench -p runtime --bench reactor -- --help`.
//!
//! Method (numbers are CPU of the proxy process, all threads, divided by round trips in the window):
//! a client sends 100 bytes through the proxy to a server that answers 300, one request in flight per connection,
//! loopback TCP, two tasks per pair of connections. The proxy is a process of its own in its own session (schedulers
//! group by session), pinned to one CPU; clients and server are one loop on the other. Variants are measured in turn,
//! over and over; the figure is the median. Clients and server never sleep, so no variant pays for waking them.

#![expect(clippy::print_stdout, reason = "a benchmark's output is its table")]

use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

mod load;
mod proxy;
mod raw_epoll;
mod raw_uring;

use proxy::Variant;

type Outcome<T> = Result<T, Box<dyn Error>>;

const HELP: &str = "\
cargo bench -p runtime --bench reactor -- [options]
  --connections 1,64,512   how many at once
  --seconds 0.7            length of a window
  --repeats 11             windows per variant; medians count
  --variants NAME,..       raw_epoll raw_uring own_epoll own_uring tokio
  --idle 10000             idle connections for the memory figure; 0 leaves it out
  --json                   print one JSON object instead of tables
  --gate                   fail unless ours is within 15 % of the raw loop and below tokio at 64 and 512";

struct Options {
    connections: Vec<usize>,
    window: Duration,
    repeats: usize,
    variants: Vec<Variant>,
    idle: usize,
    json: bool,
    gate: bool,
}

/// Medians.
struct Figure {
    variant: Variant,
    connections: usize,
    cpu_micros: f64,
    thousands: f64,
    /// To the raw loop of the same kind (tokio: to raw epoll), window by window: neighbours in time share whatever
    /// else the machine is doing.
    relative: Option<f64>,
}

/// Bytes of resident memory per idle connection with its task.
struct Idle {
    variant: Variant,
    bytes: f64,
}

fn main() -> Outcome<()> {
    let arguments =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect::<Vec<_>>();
    if let [flag, variant, port, cpu] = arguments.as_slice()
        && flag == "--proxy"
    {
        return proxy::run(variant.parse()?, port.parse()?, cpu.parse()?);
    }
    let Some(options) = Options::parse(&arguments)? else {
        println!("{HELP}");
        return Ok(());
    };
    own_session();
    runtime::net::raise_fd_limit(200_000);
    let figures = measure_all(&options)?;
    let idle = measure_idle(&options)?;
    if options.json {
        println!("{}", json(&figures, &idle));
    } else {
        print_tables(&figures, &idle);
    }
    if options.gate { gate(&figures) } else { Ok(()) }
}

impl Options {
    fn parse(arguments: &[String]) -> Outcome<Option<Self>> {
        let mut options = Self {
            connections: vec![1, 64, 512],
            window: Duration::from_millis(700),
            repeats: 11,
            variants: Variant::ALL.to_vec(),
            idle: 10_000,
            json: false,
            gate: false,
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            let mut value = || rest.next().ok_or_else(|| format!("{name} needs a value"));
            match name.as_str() {
                "--connections" => options.connections = list(value()?)?,
                "--seconds" => options.window = Duration::from_secs_f64(value()?.parse()?),
                "--repeats" => options.repeats = value()?.parse()?,
                "--variants" => options.variants = list(value()?)?,
                "--idle" => options.idle = value()?.parse()?,
                "--json" => options.json = true,
                "--gate" => options.gate = true,
                _ => return Ok(None),
            }
        }
        Ok(Some(options))
    }
}

fn list<T: std::str::FromStr>(text: &str) -> Outcome<Vec<T>>
where
    T::Err: Error + 'static,
{
    Ok(text.split(',').map(str::parse).collect::<Result<_, _>>()?)
}

/// Interleaved: every variant once, then again.
fn measure_all(options: &Options) -> Outcome<Vec<Figure>> {
    let mut figures = Vec::new();
    for &connections in &options.connections {
        let mut runs = vec![Vec::new(); options.variants.len()];
        for _ in 0..options.repeats {
            for (runs, &variant) in runs.iter_mut().zip(&options.variants) {
                runs.push(measure(variant, connections, options.window)?);
            }
        }
        for (variant_runs, &variant) in runs.iter().zip(&options.variants) {
            let raw = options.variants.iter().position(|other| *other == variant.raw());
            let relative = raw.map(|raw| {
                median(
                    variant_runs.iter().zip(&runs[raw]).map(|(own, raw)| own.0 / raw.0).collect(),
                )
            });
            let cpu_micros = median(variant_runs.iter().map(|run| run.0).collect());
            let thousands = median(variant_runs.iter().map(|run| run.1).collect());
            figures.push(Figure { variant, connections, cpu_micros, thousands, relative });
        }
    }
    Ok(figures)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// One window: microseconds of CPU per round trip, thousands per second.
fn measure(variant: Variant, connections: usize, window: Duration) -> Outcome<(f64, f64)> {
    let mut load = load::Load::new()?;
    let cpus = available_cpus()?;
    let (ours, theirs) = match (connections, cpus.as_slice()) {
        (_, [first, .., last]) => (*first, *last),
        _ => return Err("two CPUs are needed".into()),
    };
    pin(ours)?;
    let proxy = Proxy::start(variant, load.server_port(), theirs)?;
    load.connect(proxy.port, connections)?;
    load.run(Duration::from_millis(200))?;
    let before = proxy.cpu_nanos()?;
    let (trips, seconds) = load.run(window)?;
    let spent = proxy.cpu_nanos()? - before;
    Ok((spent / 1000.0 / trips, trips / seconds / 1000.0))
}

fn measure_idle(options: &Options) -> Outcome<Vec<Idle>> {
    let own = |variant: &Variant| matches!(variant, Variant::OwnEpoll | Variant::OwnUring);
    let variants = options.variants.iter().copied().filter(own);
    if options.idle == 0 {
        return Ok(Vec::new());
    }
    variants
        .map(|variant| Ok(Idle { variant, bytes: idle_bytes(variant, options.idle)? }))
        .collect()
}

/// The proxy holds two streams and two tasks per connection; memory is counted per stream with its task.
fn idle_bytes(variant: Variant, connections: usize) -> Outcome<f64> {
    let mut load = load::Load::new()?;
    let cpus = available_cpus()?;
    // Both ends of every connection are here and in the proxy: two descriptors each.
    let limit = usize::try_from(runtime::net::raise_fd_limit(200_000)).unwrap_or(usize::MAX);
    let connections = connections.min(limit.saturating_sub(500) / 2);
    let proxy = Proxy::start(variant, load.server_port(), cpus[cpus.len() - 1])?;
    load.connect(proxy.port, 100)?;
    load.run(Duration::from_millis(200))?;
    let before = proxy.resident_bytes()?;
    load.connect(proxy.port, connections)?;
    load.one_round()?;
    let after = proxy.resident_bytes()?;
    Ok((after - before) / (2 * connections) as f64)
}

/// The measured process.
struct Proxy {
    child: Child,
    port: u16,
}

impl Proxy {
    fn start(variant: Variant, server_port: u16, cpu: usize) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--proxy", variant.name(), &server_port.to_string(), &cpu.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        prefer(child.id());
        Ok(Self { port: line.trim().parse()?, child })
    }

    /// All threads, io workers too.
    fn cpu_nanos(&self) -> Outcome<f64> {
        let mut sum = 0.0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            sum += text.split_whitespace().next().ok_or("empty schedstat")?.parse::<f64>()?;
        }
        Ok(sum)
    }

    fn resident_bytes(&self) -> Outcome<f64> {
        let text = fs::read_to_string(format!("/proc/{}/statm", self.child.id()))?;
        Ok(text.split_whitespace().nth(1).ok_or("empty statm")?.parse::<f64>()? * 4096.0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It is ours and holds nothing.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A session of its own is a scheduling group of its own.
fn own_session() {
    rustix::process::setsid().ok();
    prefer(std::process::id());
}

/// Before other groups on a busy machine, where we may.
fn prefer(pid: u32) {
    fs::write(format!("/proc/{pid}/autogroup"), "-20").ok();
}

fn available_cpus() -> Outcome<Vec<usize>> {
    let set = ALL_CPUS.get_or_init(|| rustix::thread::sched_getaffinity(None).ok());
    let set = set.as_ref().ok_or("cannot read the CPU affinity")?;
    Ok((0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect())
}

/// As it was before we pinned ourselves.
static ALL_CPUS: std::sync::OnceLock<Option<rustix::thread::CpuSet>> = std::sync::OnceLock::new();

fn pin(cpu: usize) -> Outcome<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

fn print_tables(figures: &[Figure], idle: &[Idle]) {
    println!(
        "proxy CPU per forwarded round trip, microseconds (medians), relative to the raw loop"
    );
    for Figure { variant, connections, cpu_micros, thousands, relative } in figures {
        let relative =
            relative.map_or(String::new(), |ratio| format!("{:+.1} %", (ratio - 1.0) * 100.0));
        let name = variant.name();
        println!(
            "  {connections:>5} connections  {name:<10} {cpu_micros:>7.2} {relative:>9} {thousands:>7.1} k/s"
        );
    }
    for Idle { variant, bytes } in idle {
        println!("  idle stream with its task  {:<10} {bytes:>7.0} bytes", variant.name());
    }
}

fn find(figures: &[Figure], variant: Variant, connections: usize) -> Option<&Figure> {
    figures.iter().find(|figure| figure.variant == variant && figure.connections == connections)
}

fn gate(figures: &[Figure]) -> Outcome<()> {
    for figure in figures.iter().filter(|figure| [64, 512].contains(&figure.connections)) {
        if !matches!(figure.variant, Variant::OwnEpoll | Variant::OwnUring) {
            continue;
        }
        let (name, connections) = (figure.variant.name(), figure.connections);
        if figure.relative.is_some_and(|ratio| ratio > 1.15) {
            return Err(
                format!("{name} at {connections} is more than 15 % above the raw loop").into()
            );
        }
        if find(figures, Variant::Tokio, connections)
            .is_some_and(|tokio| figure.cpu_micros > tokio.cpu_micros)
        {
            return Err(format!("{name} at {connections} is above tokio").into());
        }
    }
    Ok(())
}

fn json(figures: &[Figure], idle: &[Idle]) -> serde_json::Value {
    let figures = figures.iter().map(|figure| {
        serde_json::json!({
            "variant": figure.variant.name(),
            "connections": figure.connections,
            "cpu_micros_per_round_trip": figure.cpu_micros,
            "thousand_round_trips_per_second": figure.thousands,
            "relative_to_raw": figure.relative,
        })
    });
    let idle = idle
        .iter()
        .map(|idle| serde_json::json!({"variant": idle.variant.name(), "bytes": idle.bytes}));
    serde_json::json!({"proxy": figures.collect::<Vec<_>>(), "idle": idle.collect::<Vec<_>>()})
}
