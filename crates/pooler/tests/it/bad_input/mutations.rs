//! Conversations that were right before something in them was changed at random, by a seed for each.

use std::time::Duration;

use pg::wire::frontend::{self, Target};
use pg::wire::startup;
use runtime::clock;

use crate::world::{Client, mutated, run, settings};

const SEEDS: u64 = 100;

/// How long an answer is waited for that may never come.
const GLANCE: Duration = Duration::from_millis(30);

/// A whole life of a client, as it should be.
fn conversation() -> Vec<u8> {
    let mut out = Vec::new();
    let pairs = [(&b"user"[..], &b"ann"[..]), (b"database", b"shop")];
    startup::write_startup(&mut out, startup::ProtocolVersion::V3_0, pairs);
    frontend::write::query(&mut out, "one");
    frontend::write::parse(&mut out, "s", "two", &[]);
    frontend::write::bind(&mut out, "", "s", &[], &[Some(&b"value"[..])], &[]);
    frontend::write::describe(&mut out, Target::Statement(b"s"));
    frontend::write::execute(&mut out, "", 0);
    frontend::write::sync(&mut out);
    frontend::write::query(&mut out, "three");
    frontend::write::terminate(&mut out);
    out
}

/// Reads what comes, until the end or until nothing more seems to come.
async fn listen(client: &mut Client) {
    while let Ok(Ok(chunk)) = clock::timeout(GLANCE, client.stream.recv()).await {
        if chunk.is_empty() {
            return;
        }
    }
}

#[test]
fn changed_conversations_of_clients_harm_nobody_else() {
    run(settings(), async |world| {
        let right = conversation();
        let mut bystander = world.log_in("shop").await;
        for seed in 0..SEEDS {
            let mut client = world.connect().await;
            client.send(&mutated(&right, seed)).await;
            listen(&mut client).await;
            drop(client);
            let mine = format!("mine {seed}");
            bystander.query(&mine).await;
            let expected = [format!("row {mine}"), "SELECT 1".to_owned(), "ready I".to_owned()];
            assert_eq!(bystander.answers().await, expected, "seed {seed}");
        }
    });
}

#[test]
fn changed_answers_of_servers_reach_nobody_else() {
    run(settings(), async |world| {
        let mut bystander = world.log_in("shop").await;
        for seed in 0..SEEDS {
            let mut client = world.log_in("shop").await;
            client.query(&format!("mutate {seed}")).await;
            listen(&mut client).await;
            // It may have to wait until the pooler has found out that a server is of no use.
            let mine = format!("mine {seed}");
            bystander.query(&mine).await;
            let expected = [format!("row {mine}"), "SELECT 1".to_owned(), "ready I".to_owned()];
            assert_eq!(bystander.answers().await, expected, "seed {seed}");
        }
    });
}
