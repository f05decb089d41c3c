//! The suite of tokio-postgres, against the server that a connection string names.
//!
//! tokio-postgres prepares a named statement for every query, describes it, and executes it later:
//! each step may meet another server.

use std::error::Error;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

type Outcome = Result<(), Box<dyn Error + Send + Sync>>;
type Case = (&'static str, fn(String) -> Pin<Box<dyn Future<Output = Outcome>>>);

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), |url| Box::pin($name(url)))),*]
    };
}

/// Runs every case; the failed ones by name.
pub(super) fn suite(url: &str, patience: Duration) -> Result<(), String> {
    let cases: [Case; 14] = cases![
        simple_queries_give_several_results,
        parameters_of_many_types_come_back,
        a_statement_is_executed_in_many_transactions,
        many_clients_keep_their_statements_apart,
        queries_are_pipelined,
        an_error_in_a_pipeline_hits_only_its_query,
        errors_and_savepoints_in_a_transaction,
        a_portal_is_read_in_parts,
        types_of_our_own_are_looked_up,
        copies_in_binary_format,
        a_query_is_cancelled,
        notices_arrive,
        settings_follow_their_client,
        big_parameters_and_large_results,
    ];
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let mut failures = String::new();
    for (name, case) in cases {
        let case = async { tokio::time::timeout(patience / 4, case(url.to_owned())).await };
        match runtime.block_on(case) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failures.push_str(&format!("{name}: {error:?}\n")),
            Err(_elapsed) => failures.push_str(&format!("{name}: hangs\n")),
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures) }
}

async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // The connection ends when its client is dropped.
    let _detached = tokio::spawn(connection);
    Ok(client)
}

async fn simple_queries_give_several_results(url: String) -> Outcome {
    let client = connect(&url).await?;
    let messages =
        client.simple_query("select 1; select 'two'; create table if not exists x()").await?;
    let rows: Vec<_> = messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        })
        .collect();
    assert_eq!(rows, ["1", "two"]);
    client.batch_execute("drop table x; ; select 1").await?;
    Ok(())
}

async fn parameters_of_many_types_come_back(url: String) -> Outcome {
    let client = connect(&url).await?;
    let (text, bytes, none) = ("häß".to_owned(), vec![0_u8, 255], None::<String>);
    let row = client
        .query_one(
            "select $1::int4, $2::text, $3::bytea, $4::float8, $5::bool, $6::text, $7::int8[]",
            &[&7_i32, &text, &bytes, &2.5_f64, &true, &none, &vec![1_i64, 2]],
        )
        .await?;
    assert_eq!(row.get::<_, i32>(0), 7);
    assert_eq!(row.get::<_, String>(1), text);
    assert_eq!(row.get::<_, Vec<u8>>(2), bytes);
    assert_eq!(row.get::<_, f64>(3), 2.5);
    assert!(row.get::<_, bool>(4));
    assert_eq!(row.get::<_, Option<String>>(5), None);
    assert_eq!(row.get::<_, Vec<i64>>(6), [1, 2]);
    // Without a statement: everything in one go, types given.
    let rows = client.query_typed("select $1 + 1", &[(&41_i32, Type::INT4)]).await?;
    assert_eq!(rows[0].get::<_, i32>(0), 42);
    Ok(())
}

async fn a_statement_is_executed_in_many_transactions(url: String) -> Outcome {
    let mut client = connect(&url).await?;
    let statement = client.prepare("select $1::int + 1").await?;
    for number in 0..30_i32 {
        let transaction = client.transaction().await?;
        let row = transaction.query_one(&statement, &[&number]).await?;
        assert_eq!(row.get::<_, i32>(0), number + 1);
        transaction.commit().await?;
        let row = client.query_one(&statement, &[&-number]).await?;
        assert_eq!(row.get::<_, i32>(0), 1 - number);
    }
    // Dropping it closes it; the next takes its place.
    drop(statement);
    for number in 0..10_i32 {
        assert_eq!(client.query_one("select $1::int", &[&number]).await?.get::<_, i32>(0), number);
    }
    Ok(())
}

async fn many_clients_keep_their_statements_apart(url: String) -> Outcome {
    let mut tasks = JoinSet::new();
    for client_number in 0..16_i32 {
        let url = url.clone();
        let _handle = tasks.spawn(async move {
            let client = connect(&url).await?;
            let statement = client.prepare(&format!("select $1::int + {client_number}")).await?;
            for number in 0..30_i32 {
                let row = client.query_one(&statement, &[&number]).await?;
                assert_eq!(row.get::<_, i32>(0), number + client_number);
            }
            Ok::<_, tokio_postgres::Error>(())
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        outcome??;
    }
    Ok(())
}

async fn queries_are_pipelined(url: String) -> Outcome {
    let client = Arc::new(connect(&url).await?);
    let statement = client.prepare("select $1::int").await?;
    let mut tasks = JoinSet::new();
    for number in 0..200_i32 {
        let (client, statement) = (Arc::clone(&client), statement.clone());
        let _handle = tasks.spawn(async move {
            let row = client.query_one(&statement, &[&number]).await?;
            Ok::<_, tokio_postgres::Error>((number, row.get::<_, i32>(0)))
        });
    }
    while let Some(outcome) = tasks.join_next().await {
        let (asked, answered) = outcome??;
        assert_eq!(asked, answered);
    }
    Ok(())
}

async fn an_error_in_a_pipeline_hits_only_its_query(url: String) -> Outcome {
    let client = Arc::new(connect(&url).await?);
    let statement = client.prepare("select 10 / $1::int").await?;
    let mut tasks = JoinSet::new();
    for number in 0..20_i32 {
        let (client, statement) = (Arc::clone(&client), statement.clone());
        let _handle = tasks
            .spawn(async move { (number, client.query_one(&statement, &[&(number % 5)]).await) });
    }
    while let Some(outcome) = tasks.join_next().await {
        let (number, answer) = outcome?;
        match answer {
            Ok(row) => assert_eq!(row.get::<_, i32>(0), 10 / (number % 5)),
            Err(error) => {
                assert_eq!((number % 5, error.code()), (0, Some(&SqlState::DIVISION_BY_ZERO)));
            }
        }
    }
    Ok(())
}

async fn errors_and_savepoints_in_a_transaction(url: String) -> Outcome {
    let mut client = connect(&url).await?;
    client
        .batch_execute(
            "drop table if exists tokio_rows; create table tokio_rows(id int primary key)",
        )
        .await?;
    let mut transaction = client.transaction().await?;
    let insert = transaction.prepare("insert into tokio_rows values ($1)").await?;
    let _count = transaction.execute(&insert, &[&1_i32]).await?;
    let savepoint = transaction.savepoint("s").await?;
    let twice = savepoint.execute(&insert, &[&1_i32]).await;
    assert_eq!(
        twice.err().and_then(|error| error.code().cloned()),
        Some(SqlState::UNIQUE_VIOLATION)
    );
    let refused = savepoint.query_one("select 1", &[]).await.err();
    assert_eq!(
        refused.and_then(|error| error.code().cloned()),
        Some(SqlState::IN_FAILED_SQL_TRANSACTION)
    );
    savepoint.rollback().await?;
    let _count = transaction.execute(&insert, &[&2_i32]).await?;
    transaction.commit().await?;
    let row = client.query_one("select count(*) from tokio_rows", &[]).await?;
    assert_eq!(row.get::<_, i64>(0), 2);
    // Dropping a transaction rolls it back.
    let transaction = client.transaction().await?;
    let _count = transaction.execute(&insert, &[&3_i32]).await?;
    drop(transaction);
    let row = client.query_one("select count(*) from tokio_rows", &[]).await?;
    assert_eq!(row.get::<_, i64>(0), 2);
    client.batch_execute("drop table tokio_rows").await?;
    Ok(())
}

async fn a_portal_is_read_in_parts(url: String) -> Outcome {
    let mut client = connect(&url).await?;
    let transaction = client.transaction().await?;
    let portal = transaction.bind("select * from generate_series(1, $1::int)", &[&10_i32]).await?;
    assert_eq!(transaction.query_portal(&portal, 3).await?.len(), 3);
    let other = transaction.query_one("select 5", &[]).await?;
    assert_eq!(other.get::<_, i32>(0), 5);
    let rows = transaction.query_portal(&portal, 0).await?;
    let numbers: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(numbers, [4, 5, 6, 7, 8, 9, 10]);
    transaction.rollback().await?;
    Ok(())
}

async fn types_of_our_own_are_looked_up(url: String) -> Outcome {
    let client = connect(&url).await?;
    client
        .batch_execute("drop type if exists mood; create type mood as enum ('happy', 'sad')")
        .await?;
    let statement = client.prepare("select $1::mood, array['sad'::mood]").await?;
    assert_eq!(statement.params()[0].name(), "mood");
    assert_eq!(statement.columns()[1].type_().name(), "_mood");
    client.batch_execute("drop type mood").await?;
    Ok(())
}

async fn copies_in_binary_format(url: String) -> Outcome {
    let client = connect(&url).await?;
    client
        .batch_execute(
            "drop table if exists tokio_copy; create table tokio_copy(id int, name text)",
        )
        .await?;
    let sink = client.copy_in("copy tokio_copy from stdin binary").await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT]));
    for number in 0..5000_i32 {
        writer.as_mut().write(&[&number, &format!("name {number}")]).await?;
    }
    assert_eq!(writer.finish().await?, 5000);
    let row = client.query_one("select count(*), max(name) from tokio_copy", &[]).await?;
    assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (5000, "name 999"));
    client.batch_execute("drop table tokio_copy").await?;
    Ok(())
}

async fn a_query_is_cancelled(url: String) -> Outcome {
    let client = Arc::new(connect(&url).await?);
    let bystander = connect(&url).await?;
    let sleeper = Arc::clone(&client);
    let mut sleep = tokio::spawn(async move { sleeper.batch_execute("select pg_sleep(60)").await });
    // The first request may come before the query has begun.
    let outcome = loop {
        let _late = client.cancel_token().cancel_query(NoTls).await;
        match tokio::time::timeout(Duration::from_millis(200), &mut sleep).await {
            Ok(outcome) => break outcome?,
            Err(_not_yet) => {}
        }
    };
    let code = outcome.err().and_then(|error| error.code().cloned());
    assert_eq!(code, Some(SqlState::QUERY_CANCELED));
    assert_eq!(client.query_one("select 1", &[]).await?.get::<_, i32>(0), 1);
    assert_eq!(bystander.query_one("select 2", &[]).await?.get::<_, i32>(0), 2);
    Ok(())
}

async fn notices_arrive(url: String) -> Outcome {
    let (client, mut connection) = tokio_postgres::connect(&url, NoTls).await?;
    let (sender, notices) = mpsc::channel();
    let _detached = tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(notice) = message {
                let _test_is_over = sender.send(notice.message().to_owned());
            }
        }
    });
    client.batch_execute("do $$ begin raise notice 'one'; raise warning 'two'; end $$").await?;
    let notices: Vec<_> = notices.try_iter().collect();
    assert_eq!(notices, ["one", "two"]);
    Ok(())
}

async fn settings_follow_their_client(url: String) -> Outcome {
    let zones = ["Asia/Kolkata", "America/New_York", "Europe/Berlin", "Pacific/Auckland", "UTC"];
    let mut clients = Vec::new();
    for zone in zones {
        let client = connect(&format!("{url} application_name=app_{}", zone.len())).await?;
        client.batch_execute(&format!("set timezone to '{zone}'")).await?;
        clients.push((zone, client));
    }
    for _turn in 0..5 {
        for (zone, client) in &clients {
            let row = client
                .query_one(
                    "select current_setting('timezone'), current_setting('application_name')",
                    &[],
                )
                .await?;
            let name = format!("app_{}", zone.len());
            assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (*zone, name.as_str()));
        }
    }
    Ok(())
}

async fn big_parameters_and_large_results(url: String) -> Outcome {
    let client = connect(&url).await?;
    let (text, bytes) = ("ä".repeat(1 << 20), vec![7_u8; 1 << 20]);
    let statement = client.prepare("select $1::text, $2::bytea").await?;
    for _turn in 0..3 {
        let row = client.query_one(&statement, &[&text, &bytes]).await?;
        assert!(row.get::<_, &str>(0) == text && row.get::<_, &[u8]>(1) == bytes);
    }
    let rows =
        client.query("select n, repeat('x', 100) from generate_series(1, 50000) n", &[]).await?;
    assert_eq!(rows.len(), 50_000);
    assert_eq!(rows.last().map(|row| row.get::<_, i32>(0)), Some(50_000));
    Ok(())
}
