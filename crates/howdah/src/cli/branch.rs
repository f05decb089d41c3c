//! `howdah branch`: branches of the page server made, listed as a tree, deleted; `howdah lsn-at`.

use indicatif::BinaryBytes;
use pageserver::api::{Branch, Moment, Writer};
use serde_json::{Value, from_value};

use super::BranchCommand;
use crate::api::client::{Api, escaped};
use crate::error::{Result, While};
use crate::output;

pub(super) fn run(command: &BranchCommand, api: &Api) -> Result<()> {
    match command {
        BranchCommand::Create { name, from, at, json } => {
            let at = at.as_deref().unwrap_or_default();
            let query = format!("name={}&from={}&at={}", escaped(name), escaped(from), escaped(at));
            let value = api.post(&format!("/v1/branches?{query}"))?;
            if *json {
                output::json(&value);
                return Ok(());
            }
            let branch: Branch = from_value(value).or_fail("unexpected answer of the API")?;
            let at = branch.at.unwrap_or_default();
            output::line(format!("branch \"{name}\" of \"{from}\" at {at}"));
            branch.note.iter().for_each(|note| output::note(format!("howdah: warning: {note}")));
            Ok(())
        }
        BranchCommand::List { json } => list(api, *json),
        BranchCommand::Delete { name, force } => {
            let query = format!("name={}&force={force}", escaped(name));
            let _deleted = api.delete(&format!("/v1/branches?{query}"))?;
            output::line(format!("branch \"{name}\" deleted"));
            Ok(())
        }
    }
}

fn list(api: &Api, json: bool) -> Result<()> {
    let value = api.get("/v1/branches")?;
    if json {
        output::json(&value);
        return Ok(());
    }
    let list = value.get("branches").cloned().unwrap_or(Value::Null);
    let branches: Vec<Branch> = from_value(list).or_fail("unexpected answer of the API")?;
    tree(&branches).iter().for_each(output::line);
    Ok(())
}

/// One line a branch, below the one that it comes from.
fn tree(branches: &[Branch]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left: Vec<(usize, &Branch)> =
        branches.iter().rev().filter(|branch| branch.from.is_none()).map(|b| (0, b)).collect();
    while let Some((depth, branch)) = left.pop() {
        let name = format!("{:depth$}{}", "", branch.name, depth = depth * 2);
        let at = branch.at.as_ref().map_or_else(String::new, |at| format!("at {at}, "));
        let (newest, layers) = (&branch.newest_lsn, branch.layers);
        let bytes = BinaryBytes(branch.layer_bytes);
        let writer = branch.writer.as_ref().map_or_else(String::new, written_by);
        lines.push(format!("{name:<24} {at}newest {newest}, {layers} layers of {bytes}{writer}"));
        let comes_from_it = |other: &&Branch| other.from.as_ref() == Some(&branch.name);
        left.extend(branches.iter().rev().filter(comes_from_it).map(|b| (depth + 1, b)));
    }
    lines
}

/// Who writes a branch, if somebody does.
fn written_by(writer: &Writer) -> String {
    let Some(server) = &writer.server else { return String::new() };
    let error =
        writer.error.as_ref().map_or_else(String::new, |error| format!(": {}", error.message));
    format!(", written by {server} (epoch {}{error})", writer.epoch)
}

/// `howdah lsn-at`.
pub(super) fn lsn_at(branch: &str, time: &str, json: bool, api: &Api) -> Result<()> {
    let query = format!("branch={}&at={}", escaped(branch), escaped(time));
    let value = api.get(&format!("/v1/lsn-at?{query}"))?;
    if json {
        output::json(&value);
        return Ok(());
    }
    let moment: Moment = from_value(value).or_fail("unexpected answer of the API")?;
    output::line(moment.lsn);
    moment.note.iter().for_each(|note| output::note(format!("howdah: warning: {note}")));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_stand_below_the_one_they_come_from() {
        let branch = |name: &str, from: Option<&str>| Branch {
            name: name.to_owned(),
            from: from.map(str::to_owned),
            at: from.map(|_| "0/10".to_owned()),
            newest_lsn: "0/20".to_owned(),
            flushed_lsn: None,
            layered_lsn: None,
            layers: 1,
            layer_bytes: 2,
            writer: None,
            note: None,
        };
        let branches = [
            branch("a", Some("main")),
            branch("b", Some("main")),
            branch("main", None),
            branch("twig", Some("a")),
        ];
        let names: Vec<String> =
            tree(&branches).iter().map(|line| line.split_at(9).0.trim_end().to_owned()).collect();
        assert_eq!(names, ["main", "  a", "    twig", "  b"]);
    }
}
