//! What to measure, from the command line.

use std::path::PathBuf;

const HELP: &str = "measure the pooler beside PgBouncer

usage: cargo xtask bench [OPTIONS]

  --quick             one short round of a few cells, to try it
  --workloads LIST    of simple,prepared,extended,tpcb,pipeline,churn,connect,crowd,calls (default: all but extended)
  --clients LIST      client counts of simple and prepared (default 1,16,100,500)
  --targets LIST      of howdah,howdah-epoll,howdah-io_uring,pgbouncer,pgbouncer-unix,pgbouncer-debian,direct
                      (default howdah-epoll,howdah-io_uring,pgbouncer,pgbouncer-unix)
  --target NAME=FILE  one more Howdah binary under another name (to compare two builds)
  --rounds N          interleaved rounds (default 2)
  --seconds N         measured window of a round (default 3)
  --scale N           pgbench scale (default 20)
  --pool N            server connections of each pooler (default 16)
  --cores N           cores that Howdah uses (default 1, as PgBouncer has one thread)
  --link unix|tcp     between Howdah and the server (default unix; pgbouncer has TCP, pgbouncer-unix the other)
  --crowd N           idle connections of `crowd` (default 10000)
  --no-build          use the release binary that is there
  --json FILE         also append every run as one line of JSON
  --write             put the results into docs/benchmarks.md

example: cargo xtask bench --workloads simple,prepared --clients 100 --seconds 3
";

/// Everything that can be chosen.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) workloads: Vec<String>,
    pub(crate) clients: Vec<usize>,
    pub(crate) targets: Vec<String>,
    /// Additional Howdah binaries: name and path.
    pub(crate) binaries: Vec<(String, PathBuf)>,
    pub(crate) rounds: usize,
    pub(crate) seconds: u64,
    pub(crate) scale: usize,
    pub(crate) pool: usize,
    pub(crate) cores: usize,
    pub(crate) unix_link: bool,
    pub(crate) crowd: usize,
    pub(crate) build: bool,
    pub(crate) json: Option<PathBuf>,
    pub(crate) write: bool,
    /// As typed, for the report.
    pub(crate) command: String,
}

impl Options {
    fn new(command: String) -> Self {
        Self {
            workloads: names("simple,prepared,tpcb,pipeline,churn,connect,crowd,calls"),
            clients: vec![1, 16, 100, 500],
            targets: names("howdah-epoll,howdah-io_uring,pgbouncer,pgbouncer-unix"),
            binaries: Vec::new(),
            rounds: 2,
            seconds: 3,
            scale: 20,
            pool: 16,
            cores: 1,
            unix_link: true,
            crowd: 10_000,
            build: true,
            json: None,
            write: false,
            command,
        }
    }

    /// `None` after `--help`.
    pub(crate) fn parse(arguments: Vec<String>) -> Result<Option<Self>, String> {
        let command = format!("cargo xtask bench {}", arguments.join(" "));
        let mut options = Self::new(command.trim_end().to_owned());
        let mut rest = arguments.into_iter();
        while let Some(name) = rest.next() {
            let mut value = || rest.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                "-h" | "--help" => {
                    println!("{HELP}");
                    return Ok(None);
                }
                "--quick" => options.hurry(),
                "--workloads" => options.workloads = names(&value()?),
                "--clients" => {
                    options.clients =
                        names(&value()?).iter().map(|n| number(n)).collect::<Result<_, _>>()?;
                }
                "--targets" => options.targets = names(&value()?),
                "--target" => {
                    let pair = value()?;
                    let (name, file) = pair.split_once('=').ok_or("--target NAME=FILE")?;
                    options.binaries.push((name.to_owned(), PathBuf::from(file)));
                }
                "--rounds" => options.rounds = number(&value()?)?,
                "--seconds" => options.seconds = number(&value()?)? as u64,
                "--scale" => options.scale = number(&value()?)?,
                "--pool" => options.pool = number(&value()?)?,
                "--cores" => options.cores = number(&value()?)?,
                "--crowd" => options.crowd = number(&value()?)?,
                "--link" => options.unix_link = value()? != "tcp",
                "--no-build" => options.build = false,
                "--json" => options.json = Some(PathBuf::from(value()?)),
                "--write" => options.write = true,
                other => return Err(format!("unknown option {other}\n\n{HELP}")),
            }
        }
        Ok(Some(options))
    }

    fn hurry(&mut self) {
        self.workloads = names("simple,prepared,churn");
        self.clients = vec![1, 100];
        self.rounds = 1;
        self.seconds = 2;
        self.scale = 5;
        self.crowd = 1000;
    }
}

fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn number(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err(format!("\"{text}\" is not a number above 0")),
        Ok(number) => Ok(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Option<Options>, String> {
        Options::parse(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn later_options_win_over_quick() {
        let options = parse("--quick --clients 7,9").expect("valid").expect("not help");
        assert_eq!((options.clients, options.rounds), (vec![7, 9], 1));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        assert!(parse("--quack").expect_err("unknown").contains("--quack"));
        assert!(parse("--rounds 0").expect_err("zero").contains("\"0\""));
        assert!(parse("--rounds").expect_err("no value").contains("--rounds"));
    }
}
