//! Where a bucket is: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, or a directory.
//!
//! Credentials come from the environment, under the names that each provider's own tools use (`AWS_ACCESS_KEY_ID`,
//! `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME`, ...), or from the machine's role. They are
//! never part of the address, so that it may be logged.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::error::{BucketError, Fault};
use crate::limits::{REQUEST_TIME_MAX, STORE_CONNECT_TIME_MAX};

/// The address of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A directory of this machine, or mounted on it.
    Directory(PathBuf),
    S3 {
        bucket: String,
        prefix: String,
        /// Of a store that is not Amazon's: `http://127.0.0.1:9000`.
        endpoint: Option<String>,
        region: Option<String>,
    },
    Google {
        bucket: String,
        prefix: String,
    },
    Azure {
        container: String,
        prefix: String,
    },
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError(String);

impl Address {
    /// The same with another endpoint and region, where the kind of store has them.
    #[must_use]
    pub fn at(self, endpoint: Option<String>, region: Option<String>) -> Address {
        match self {
            Address::S3 { bucket, prefix, .. } => Address::S3 { bucket, prefix, endpoint, region },
            other => other,
        }
    }

    /// Opens the store and says what comes before every name in it.
    pub(super) fn connect(&self) -> Result<(Arc<dyn ObjectStore>, ObjectPath), BucketError> {
        let refused = |error: object_store::Error| {
            BucketError::new("open", &self.to_string(), Fault::Refused(error.to_string()))
        };
        let (store, prefix): (Arc<dyn ObjectStore>, &str) = match self {
            Address::Directory(path) => (Arc::new(directory(path)?), ""),
            Address::S3 { bucket, prefix, endpoint, region } => {
                let mut builder =
                    AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retries());
                if let Some(endpoint) = endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                let endpoint = builder.get_config_value(&AmazonS3ConfigKey::Endpoint);
                builder = builder.with_client_options(client(endpoint.as_deref()));
                if let Some(region) = region {
                    builder = builder.with_region(region);
                } else if builder.get_config_value(&AmazonS3ConfigKey::Region).is_none() {
                    builder = builder.with_region("us-east-1");
                }
                (Arc::new(builder.build().map_err(refused)?), prefix)
            }
            Address::Google { bucket, prefix } => {
                let builder = GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(bucket)
                    .with_retry(retries())
                    .with_client_options(client(None));
                (Arc::new(builder.build().map_err(refused)?), prefix)
            }
            Address::Azure { container, prefix } => {
                let builder = MicrosoftAzureBuilder::from_env()
                    .with_container_name(container)
                    .with_retry(retries())
                    .with_client_options(client(None));
                (Arc::new(builder.build().map_err(refused)?), prefix)
            }
        };
        let base = ObjectPath::parse(prefix).map_err(|error| refused(error.into()))?;
        Ok((store, base))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Address, AddressError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let error = "it is neither a URL nor an absolute path";
            return match Path::new(text) {
                path if path.is_absolute() => Ok(Address::Directory(path.to_owned())),
                _ => Err(AddressError(error.to_owned())),
            };
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/').to_owned();
        if rest.contains(['@', '?', '#']) {
            let error =
                "it may hold a name and a prefix only; credentials belong in the environment";
            return Err(AddressError(error.to_owned()));
        }
        if scheme != "file" && name.is_empty() {
            return Err(AddressError("it names no bucket".to_owned()));
        }
        let bucket = name.to_owned();
        match scheme {
            "file" if name.is_empty() => Ok(Address::Directory(Path::new("/").join(prefix))),
            "file" => Err(AddressError("a file URL has three slashes: file:///path".to_owned())),
            "s3" => Ok(Address::S3 { bucket, prefix, endpoint: None, region: None }),
            "gs" => Ok(Address::Google { bucket, prefix }),
            "az" => Ok(Address::Azure { container: bucket, prefix }),
            other => {
                Err(AddressError(format!("\"{other}\" is none of the schemes s3, gs, az and file")))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bucket, prefix) = match self {
            Address::Directory(path) => return write!(f, "{}", path.display()),
            Address::S3 { bucket, prefix, .. } => ("s3", bucket, prefix),
            Address::Google { bucket, prefix } => ("gs", bucket, prefix),
            Address::Azure { container, prefix } => ("az", container, prefix),
        };
        match prefix.as_str() {
            "" => write!(f, "{scheme}://{bucket}"),
            prefix => write!(f, "{scheme}://{bucket}/{prefix}"),
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not an address of an object store: {}", self.0)
    }
}

impl std::error::Error for AddressError {}

/// A directory, made if it is missing. Objects in it are synced before they are said to be there.
fn directory(path: &Path) -> Result<LocalFileSystem, BucketError> {
    let failed =
        |why: String| BucketError::new("open", &path.display().to_string(), Fault::Local(why));
    runtime::fs::blocking::create_dir_all(path).map_err(|error| failed(error.to_string()))?;
    let store =
        LocalFileSystem::new_with_prefix(path).map_err(|error| failed(error.to_string()))?;
    Ok(store.with_fsync(true))
}

/// The library tries again where it knows that a request was not carried out; the long waiting is ours.
fn retries() -> RetryConfig {
    RetryConfig { max_retries: 2, retry_timeout: REQUEST_TIME_MAX, ..RetryConfig::default() }
}

fn client(endpoint: Option<&str>) -> ClientOptions {
    ClientOptions::new()
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
        .with_timeout(REQUEST_TIME_MAX)
        .with_connect_timeout(STORE_CONNECT_TIME_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_address() {
        let s3 = |prefix: &str| Address::S3 {
            bucket: "shop".to_owned(),
            prefix: prefix.to_owned(),
            endpoint: None,
            region: None,
        };
        let check = |text: &str, expected: Address| {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        };
        check("/var/lib/howdah", Address::Directory("/var/lib/howdah".into()));
        check("file:///var/lib/howdah", Address::Directory("/var/lib/howdah".into()));
        check("s3://shop", s3(""));
        check("s3://shop/", s3(""));
        check("s3://shop/a/b/", s3("a/b"));
        check("gs://shop/a", Address::Google { bucket: "shop".into(), prefix: "a".into() });
        check("az://shop/a", Address::Azure { container: "shop".into(), prefix: "a".into() });
    }

    #[test]
    fn says_what_is_wrong_with_an_address() {
        let check = |text: &str, expected: &str| {
            let error = text.parse::<Address>().expect_err("it is no address");
            assert!(error.to_string().contains(expected), "{text}: {error}");
        };
        check("relative/path", "neither a URL nor an absolute path");
        check("s3://", "no bucket");
        check("s3://key:secret@shop/a", "credentials belong in the environment");
        check("file://host/path", "three slashes");
        check("ftp://shop", "\"ftp\" is none of the schemes");
    }

    #[test]
    fn prints_what_it_reads() {
        for text in ["/var/lib/howdah", "s3://shop", "gs://shop/a", "az://shop/a/b"] {
            let address: Address = text.parse().expect("an address");
            assert_eq!(address.to_string(), text);
        }
    }
}
