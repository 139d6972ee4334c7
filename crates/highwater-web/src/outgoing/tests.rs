//! Receivers of every kind, and where a call must not lead.

use std::io::Write;
use std::time::Instant;

use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

fn caller(allow: &[&str]) -> Caller {
    let allow = allow.iter().map(|network| network.parse().expect("a network")).collect();
    Caller { allow, own: Vec::new(), ca_file: None }
}

async fn post(caller: &Caller, url: &str) -> Result<(), CallError> {
    caller.post(&url.parse().expect("a URL"), &[], "{}".to_owned()).await
}

/// A receiver that answers each connection with these bytes and keeps it open; what it was sent.
async fn receiver(answer: &'static [u8]) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let (heard, asked) = tokio::sync::mpsc::channel(8);
    tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            request.truncate(length);
            let _ = heard.send(String::from_utf8_lossy(&request).into_owned()).await;
            let _ = stream.write_all(answer).await;
            open.push(stream);
        }
    });
    (addr, asked)
}

#[tokio::test]
async fn a_call_goes_out_as_it_was_meant_and_success_is_success() {
    let (addr, mut asked) = receiver(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    let to = format!("http://{addr}/hook?x=1").parse().expect("a URL");
    let headers = [("x-more", "yes".to_owned())];
    let called = caller(&["127.0.0.1"]).post(&to, &headers, "{\"a\":1}".to_owned()).await;
    assert_eq!(called, Ok(()));
    let request = asked.recv().await.expect("called");
    assert!(request.starts_with("POST /hook?x=1 HTTP/1.1\r\n"), "{request}");
    for part in [&format!("host: {addr}\r\n"), "content-type: application/json\r\n", "x-more: yes"]
    {
        assert!(request.contains(part), "{part}: {request}");
    }
    assert!(
        request.contains("content-length: 7\r\n") && request.ends_with("{\"a\":1}"),
        "{request}"
    );
}

#[tokio::test]
async fn nothing_but_public_addresses_is_called_unless_allowed() {
    let (addr, mut asked) = receiver(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let port = addr.port();
    for host in [
        "127.0.0.1",
        "[::1]",
        "0.0.0.0",
        "localhost",
        "localhost.",
        "2130706433",
        "0x7f.1",
        "127.1",
        "10.0.0.1",
        "169.254.169.254",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
    ] {
        let called = post(&caller(&[]), &format!("http://{host}:{port}/")).await;
        let refused = matches!(called, Err(CallError::Forbidden | CallError::Unreachable));
        assert!(refused, "{host}: {called:?}");
    }
    assert!(asked.try_recv().is_err(), "it was called");
    let own =
        Caller { own: vec![SocketAddr::from(([0, 0, 0, 0], port))], ..caller(&["127.0.0.0/8"]) };
    assert_eq!(post(&own, &format!("http://{addr}/")).await, Err(CallError::Forbidden), "own port");
    assert_eq!(post(&caller(&["127.0.0.0/8"]), &format!("http://{addr}/")).await, Ok(()));
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_refusal_is_one() {
    let (secret, mut asked) = receiver(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let answer = format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{secret}/\r\n\r\n");
    let (addr, _asked) = receiver(answer.leak().as_bytes()).await;
    let allowed = caller(&["127.0.0.1"]);
    let called = post(&allowed, &format!("http://{addr}/")).await;
    assert_eq!(called, Err(CallError::Refused(StatusCode::TEMPORARY_REDIRECT)));
    assert!(asked.try_recv().is_err(), "it was followed");
    let (addr, _asked) = receiver(b"HTTP/1.1 500 Oh\r\n\r\nthe secret inside").await;
    let told = post(&allowed, &format!("http://{addr}/")).await.expect_err("refused").to_string();
    assert_eq!(told, "it answered 500");
}

#[tokio::test]
async fn answers_without_end_are_left_in_time() {
    let endless: &'static [u8] = "HTTP/1.1 100 Continue\r\n\r\n".repeat(10_000).leak().as_bytes();
    let huge: &'static [u8] =
        format!("HTTP/1.1 200 OK\r\nx: {}", "y".repeat(HEAD_BYTES_MAX * 2)).leak().as_bytes();
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let nobody = closed.local_addr().expect("bound");
    drop(closed);
    for (what, addr) in [
        ("a flood of 1xx", receiver(endless).await.0),
        ("a head without end", receiver(huge).await.0),
        ("nothing", receiver(b"").await.0),
        ("nobody", nobody),
    ] {
        let began = Instant::now();
        let called = post(&caller(&["127.0.0.1"]), &format!("http://{addr}/")).await;
        assert_eq!(called, Err(CallError::Unreachable), "{what}: the same words for all");
        assert!(began.elapsed() < CALL_WAIT * 2, "{what}");
    }
    let body: &'static [u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 10737418240\r\n\r\nxxxx";
    let (addr, _asked) = receiver(body).await;
    assert_eq!(post(&caller(&["127.0.0.1"]), &format!("http://{addr}/")).await, Ok(()));
}

/// An https receiver for `name`; its certificate as a file.
async fn secure_receiver(name: &str) -> (SocketAddr, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).expect("a certificate");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(made.cert.pem().as_bytes()).expect("written");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("a pair");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    (addr, file)
}

#[tokio::test]
async fn an_https_receiver_has_to_prove_its_name() {
    let (addr, trusted) = secure_receiver("localhost").await;
    let (_, other) = secure_receiver("localhost").await;
    let with = |file: &tempfile::NamedTempFile| Caller {
        ca_file: Some(file.path().to_owned()),
        ..caller(&["127.0.0.1", "::1"])
    };
    let port = addr.port();
    let right = format!("https://localhost:{port}/");
    assert_eq!(post(&with(&trusted), &right).await, Ok(()));
    assert_eq!(post(&with(&other), &right).await, Err(CallError::Untrusted), "self-signed");
    let wrong_name = format!("https://127.0.0.1:{port}/");
    assert_eq!(post(&with(&trusted), &wrong_name).await, Err(CallError::Untrusted), "wrong name");
    let empty = tempfile::NamedTempFile::new().expect("a file");
    assert!(matches!(post(&with(&empty), &right).await, Err(CallError::NoRoots(_))));
}
