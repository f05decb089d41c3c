//! A bucket on a real S3 server, `/tests/s3`.

use std::sync::Arc;
use std::time::Duration;

use cluster::{S3_CREDENTIALS, S3Server};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, RetryConfig};
use storage::bucket::{Bucket, Creation, Fault, Numbered, Patience};

use super::{Folder, bridge, check_bucket, on_a_core};
use proxy::Proxy;

mod proxy;

/// A new bucket on a server.
fn bucket(server: &S3Server, name: &str) -> Bucket {
    bucket_by(server, server.endpoint(), name, Duration::from_secs(60))
}

/// The same, asked for by way of another address.
fn bucket_by(server: &S3Server, endpoint: &str, name: &str, attempt: Duration) -> Bucket {
    server.make_bucket(name);
    let [(_, key), (_, secret)] = S3_CREDENTIALS;
    let store = AmazonS3Builder::new()
        .with_bucket_name(name)
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_retry(RetryConfig { max_retries: 2, ..RetryConfig::default() })
        .with_region("us-east-1")
        .with_access_key_id(key)
        .with_secret_access_key(secret)
        .build()
        .expect("an S3 client");
    let store: Arc<dyn ObjectStore> = Arc::new(store);
    let patience = Patience { attempt, request: Duration::from_secs(240) };
    Bucket::over(store, ObjectPath::from("pre/fix"), bridge(), patience)
}

#[test]
fn s3_is_a_bucket() {
    let Some(server) = S3Server::start() else { return };
    let bucket = bucket(&server, "shop");
    on_a_core(async {
        check_bucket(&bucket, &Folder::new("s3")).await;
        let document = Numbered::new(&bucket, "main/manifest");
        let (mut first, _) = document.claim(b"empty").await.expect("a claim");
        first.publish(b"layers").await.expect("nobody else writes");
        let (_second, taken) = document.claim(b"empty").await.expect("a claim");
        assert_eq!((taken.generation, taken.body.as_slice()), (2, &b"layers"[..]));
        first.publish(b"too late").await.expect_err("it was replaced");
    });
}

/// Answers of 500, lost answers and stalls change nothing but the time that it takes.
#[test]
fn s3_that_fails_is_outlasted_and_a_stale_writer_refused() {
    let Some(server) = S3Server::start() else { return };
    let proxy = Proxy::start(server.address());
    let bucket = bucket_by(&server, &proxy.endpoint(), "faults", Duration::from_secs(5));
    on_a_core(async {
        for number in 0..8_u8 {
            let name = format!("things/{number:02}");
            bucket.put(&name, vec![number; 1000]).await.expect("put");
            assert_eq!(bucket.get(&name, 1000).await, Ok(Some(vec![number; 1000])));
            let created = bucket.create(&format!("made/{number:02}"), vec![number]).await;
            assert_eq!(created, Ok(Creation::Created), "an answer that was lost is no other's");
            let taken = bucket.create(&format!("made/{number:02}"), vec![77]).await;
            assert_eq!(taken, Ok(Creation::Exists));
        }
        assert_eq!(bucket.list("made").await.expect("a list").len(), 8);

        let document = Numbered::new(&bucket, "manifest");
        let (mut first, _) = document.claim(b"empty").await.expect("a claim");
        for version in 0..5_u8 {
            first.publish(&[version]).await.expect("nobody else writes");
        }
        first.check().await.expect("nobody else has claimed it");
        let (mut second, taken) = document.claim(b"empty").await.expect("a claim");
        assert_eq!((taken.generation, taken.body.as_slice()), (2, &[4][..]));
        let stale = Fault::Stale { generation: 2 };
        assert_eq!(first.check().await.expect_err("it was replaced").fault, stale);
        assert_eq!(first.publish(b"late").await.expect_err("it was replaced").fault, stale);
        second.publish(b"second's").await.expect("nobody else writes");
        let newest = document.newest().await.expect("it can be read").expect("there is one");
        assert_eq!(newest.body, b"second's");

        for number in 0..8 {
            bucket.delete(&format!("things/{number:02}")).await.expect("delete");
        }
        assert_eq!(bucket.list("things").await, Ok(Vec::new()));
    });
    assert!(proxy.requests() > 60, "{} requests met hardly a fault", proxy.requests());
}
