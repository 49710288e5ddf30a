//! Probes of real servers on the loopback interface, friendly and hostile.

use std::{
    future::pending,
    io::Write,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::{HttpCheck, Method, StatusRange, TlsCheck};

/// For probes that end by themselves.
const PATIENCE: Duration = Duration::from_secs(30);
/// For probes that must be ended.
const TIMEOUT: Duration = Duration::from_millis(500);

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A server that does `serve` with its only connection, until the test ends.
async fn server<F>(serve: impl FnOnce(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send,
{
    let (listener, address) = listen().await;
    tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    address
}

/// Reads the head of a request.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.expect("a whole request head"));
    }
    String::from_utf8(request).unwrap()
}

/// A server that answers a request with `response`, and closes.
async fn answering(response: impl AsRef<[u8]> + Send + Sync + 'static) -> SocketAddr {
    server(async move |mut stream: TcpStream| {
        read_request(&mut stream).await;
        stream.write_all(response.as_ref()).await.unwrap();
    })
    .await
}

/// A server that answers a request with `start`, then with `rest` again and again, as fast as the
/// client reads.
async fn flooding(start: &'static str, rest: &'static str) -> SocketAddr {
    server(async move |mut stream: TcpStream| {
        read_request(&mut stream).await;
        stream.write_all(start.as_bytes()).await.unwrap();
        while stream.write_all(rest.as_bytes()).await.is_ok() {}
    })
    .await
}

fn http_check() -> HttpCheck {
    HttpCheck {
        tls: None,
        method: Method::Get,
        path: "/healthz".to_owned(),
        host: None,
        expected_status: vec![StatusRange { first: 200, last: 399 }],
        body_contains: None,
    }
}

fn body_check(text: &str) -> HttpCheck {
    HttpCheck { body_contains: Some(text.to_owned()), ..http_check() }
}

/// The message of the failure of a probe, or "ok".
async fn outcome(target: SocketAddr, check: &CheckKind, timeout: Duration) -> String {
    match probe(target, check, timeout).await {
        Ok(_) => "ok".to_owned(),
        Err(failure) => failure.to_string(),
    }
}

async fn http_outcome(target: SocketAddr, check: HttpCheck) -> String {
    outcome(target, &CheckKind::Http(check), PATIENCE).await
}

async fn http_outcome_in_time(target: SocketAddr, check: HttpCheck) -> String {
    outcome(target, &CheckKind::Http(check), TIMEOUT).await
}

mod tcp {
    use super::*;

    #[tokio::test]
    async fn a_listening_server_passes() {
        let (_listener, target) = listen().await;
        assert_eq!(outcome(target, &CheckKind::Tcp, PATIENCE).await, "ok");
    }

    #[tokio::test]
    async fn the_connection_is_closed_by_reset() {
        let (listener, target) = listen().await;
        probe(target, &CheckKind::Tcp, PATIENCE).await.unwrap();
        let mut connection = listener.accept().await.unwrap().0;
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_port_without_server_is_refused() {
        let (listener, target) = listen().await;
        drop(listener);
        assert_eq!(outcome(target, &CheckKind::Tcp, PATIENCE).await, "connection refused");
    }

    #[tokio::test]
    async fn a_server_whose_backlog_is_full_times_out() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let target = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(connected) = timeout_at(Instant::now() + TIMEOUT, TcpStream::connect(target)).await {
            waiting.push(connected.unwrap());
        }
        assert_eq!(outcome(target, &CheckKind::Tcp, TIMEOUT).await, "timed out after 500ms while connecting");
    }
}

mod request {
    use super::*;

    /// What a server is sent for `check`.
    async fn sent(check: HttpCheck) -> (SocketAddr, String) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let target = server(async move |mut stream: TcpStream| {
            let request = read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 204 \r\n\r\n").await.unwrap();
            sender.send(request).unwrap();
        })
        .await;
        assert_eq!(http_outcome(target, check).await, "ok");
        (target, receiver.await.unwrap())
    }

    #[tokio::test]
    async fn a_check_asks_for_its_path_at_the_targets_address() {
        let (target, request) = sent(http_check()).await;
        let start = format!("GET /healthz HTTP/1.1\r\nhost: {target}\r\n");
        assert!(request.starts_with(&start), "{request}");
    }

    #[tokio::test]
    async fn a_check_asks_with_its_method_for_its_host() {
        let (_, request) =
            sent(HttpCheck { method: Method::Head, host: Some("crm.example:8080".to_owned()), ..http_check() }).await;
        let start = "HEAD /healthz HTTP/1.1\r\nhost: crm.example:8080\r\n";
        assert!(request.starts_with(start), "{request}");
    }
}

mod response {
    use super::*;

    #[tokio::test]
    async fn an_expected_status_passes() {
        let target = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(http_outcome(target, http_check()).await, "ok");
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let target = answering("HTTP/1.1 302 Found\r\nlocation: /\r\n\r\n").await;
        assert_eq!(http_outcome(target, http_check()).await, "ok");
    }

    #[tokio::test]
    async fn another_status_fails() {
        let target = answering("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
        assert_eq!(http_outcome(target, http_check()).await, "status 503, expected 200-399");
    }

    #[tokio::test]
    async fn a_body_with_the_text_passes() {
        let target = answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nall ok :)").await;
        assert_eq!(http_outcome(target, body_check("ok")).await, "ok");
    }

    #[tokio::test]
    async fn a_body_without_the_text_fails() {
        let target = answering("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nsick").await;
        assert_eq!(http_outcome(target, body_check("ok")).await, "body does not contain \"ok\"");
    }

    #[tokio::test]
    async fn the_text_is_found_across_chunks() {
        let chunks = "2\r\nhe\r\n1\r\na\r\n4\r\nlthy\r\n0\r\n\r\n";
        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let target = answering(format!("{head}{chunks}")).await;
        assert_eq!(http_outcome(target, body_check("healthy")).await, "ok");
    }

    #[tokio::test]
    async fn the_text_is_found_without_waiting_for_the_rest_of_the_body() {
        let target = flooding("HTTP/1.1 200 OK\r\n\r\nok", " and more").await;
        assert_eq!(http_outcome(target, body_check("ok")).await, "ok");
    }

    #[tokio::test]
    async fn only_the_first_64_kib_of_a_body_are_searched() {
        for (padding, expected) in [(64 * 1024 - 2, "ok"), (64 * 1024 - 1, "body does not contain \"ok\"")] {
            let body = "x".repeat(padding) + "ok";
            let target = answering(format!("HTTP/1.1 200 OK\r\n\r\n{body}")).await;
            assert_eq!(http_outcome(target, body_check("ok")).await, expected);
        }
    }
}

mod hostile {
    use super::*;

    const OK_HEAD: &str = "HTTP/1.1 200 OK\r\n\r\n";

    #[tokio::test]
    async fn a_server_that_accepts_and_says_nothing_times_out() {
        let target = server(async |_stream| pending().await).await;
        assert_eq!(
            http_outcome_in_time(target, http_check()).await,
            "timed out after 500ms while waiting for the response"
        );
    }

    #[tokio::test]
    async fn a_response_that_trickles_times_out() {
        let target = server(async |mut stream: TcpStream| {
            read_request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await.unwrap();
            while stream.write_all(b"y").await.is_ok() {
                tokio::time::sleep(TIMEOUT / 50).await;
            }
        })
        .await;
        assert_eq!(
            http_outcome_in_time(target, http_check()).await,
            "timed out after 500ms while waiting for the response"
        );
    }

    #[tokio::test]
    async fn a_body_that_does_not_come_times_out() {
        let target = server(async |mut stream: TcpStream| {
            read_request(&mut stream).await;
            stream.write_all(OK_HEAD.as_bytes()).await.unwrap();
            pending::<()>().await;
        })
        .await;
        assert_eq!(
            http_outcome_in_time(target, body_check("ok")).await,
            "timed out after 500ms while reading the body"
        );
    }

    #[tokio::test]
    async fn a_body_without_end_is_given_up() {
        let target = flooding(OK_HEAD, "never it ends ").await;
        assert_eq!(http_outcome(target, body_check("ok")).await, "body does not contain \"ok\"");
    }

    #[tokio::test]
    async fn a_header_without_end_is_given_up() {
        let target = flooding("HTTP/1.1 200 OK\r\nx: ", "yyyyyyyy").await;
        assert_eq!(http_outcome(target, http_check()).await, "no valid HTTP response: message head is too large");
    }

    #[tokio::test]
    async fn headers_without_end_are_given_up() {
        let target = flooding("HTTP/1.1 200 OK\r\n", "x: y\r\n").await;
        assert_eq!(http_outcome(target, http_check()).await, "no valid HTTP response: message head is too large");
    }

    #[tokio::test]
    async fn interim_responses_without_end_time_out() {
        let target = flooding("", "HTTP/1.1 100 Continue\r\n\r\n").await;
        assert_eq!(
            http_outcome_in_time(target, http_check()).await,
            "timed out after 500ms while waiting for the response"
        );
    }

    #[tokio::test]
    async fn a_server_that_does_not_speak_http_fails() {
        let target = answering("SSH-2.0-OpenSSH_9.9\r\n").await;
        assert_eq!(http_outcome(target, http_check()).await, "no valid HTTP response: invalid HTTP version parsed");
    }

    #[tokio::test]
    async fn a_server_that_speaks_first_fails() {
        let target = server(async |mut stream: TcpStream| {
            stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
            pending::<()>().await;
        })
        .await;
        let outcome = http_outcome(target, http_check()).await;
        assert!(outcome.starts_with("no valid HTTP response: "), "{outcome}");
    }

    #[tokio::test]
    async fn a_server_that_closes_without_a_response_fails() {
        let target = answering("").await;
        assert_eq!(
            http_outcome(target, http_check()).await,
            "no valid HTTP response: connection closed before message completed"
        );
    }

    #[tokio::test]
    async fn a_body_that_is_cut_short_fails() {
        let target = answering("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nal").await;
        assert_eq!(
            http_outcome(target, body_check("ok")).await,
            "no valid HTTP response: end of file before message length reached"
        );
    }
}

mod tls {
    use super::*;

    struct Authority {
        issuer: CertifiedIssuer<'static, KeyPair>,
        file: NamedTempFile,
    }

    /// A certificate authority, and a file with its certificate.
    fn authority() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(issuer.pem().as_bytes()).unwrap();
        Authority { issuer, file }
    }

    /// A server with a certificate of `authority` for `crm.example`, 127.0.0.1 and `::1`.
    async fn https_server(authority: &Authority) -> SocketAddr {
        let key = KeyPair::generate().unwrap();
        let names = ["crm.example", "127.0.0.1", "::1"].map(str::to_owned);
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority.issuer).unwrap();
        serve_tls(certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap()).await
    }

    async fn serve_tls(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> SocketAddr {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        server(async move |stream: TcpStream| {
            // A client that does not like the certificate ends the session here.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            read_request(&mut stream).await;
            let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(response).await.unwrap();
        })
        .await
    }

    fn https_check(tls: TlsCheck) -> HttpCheck {
        HttpCheck { tls: Some(tls), ..body_check("ok") }
    }

    fn verified_by(authority: &Authority, server_name: Option<&str>) -> HttpCheck {
        https_check(TlsCheck {
            server_name: server_name.map(str::to_owned),
            ca_file: Some(authority.file.path().to_owned()),
        })
    }

    #[tokio::test]
    async fn a_certificate_of_the_ca_for_the_server_name_passes() {
        let ca = authority();
        let target = https_server(&ca).await;
        let check = verified_by(&ca, Some("crm.example"));
        assert_eq!(http_outcome(target, check).await, "ok");
    }

    #[tokio::test]
    async fn the_name_to_verify_is_by_default_the_host() {
        let ca = authority();
        for host in ["crm.example", "crm.example:8443", "127.0.0.1:8443", "[::1]:8443"] {
            let target = https_server(&ca).await;
            let check = HttpCheck { host: Some(host.to_owned()), ..verified_by(&ca, None) };
            assert_eq!(http_outcome(target, check).await, "ok", "{host}");
        }
        let target = https_server(&ca).await;
        let check = HttpCheck { host: Some("erp.example".to_owned()), ..verified_by(&ca, None) };
        assert_ne!(http_outcome(target, check).await, "ok");
    }

    #[tokio::test]
    async fn the_name_to_verify_is_without_a_host_the_address() {
        let ca = authority();
        let target = https_server(&ca).await;
        assert_eq!(target.ip(), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(http_outcome(target, verified_by(&ca, None)).await, "ok");
    }

    #[tokio::test]
    async fn a_certificate_for_another_name_fails() {
        let ca = authority();
        let target = https_server(&ca).await;
        let outcome = http_outcome(target, verified_by(&ca, Some("erp.example"))).await;
        let start = "TLS: invalid peer certificate: certificate not valid for name \"erp.example\"";
        assert!(outcome.starts_with(start), "{outcome}");
    }

    #[tokio::test]
    async fn a_certificate_of_another_ca_fails() {
        let target = https_server(&authority()).await;
        let outcome = http_outcome(target, verified_by(&authority(), None)).await;
        let start = "TLS: invalid peer certificate: ";
        assert!(outcome.starts_with(start), "{outcome}");
    }

    #[tokio::test]
    async fn any_certificate_passes_a_check_without_ca() {
        let target = https_server(&authority()).await;
        let check = https_check(TlsCheck { server_name: Some("erp.example".to_owned()), ca_file: None });
        assert_eq!(http_outcome(target, check).await, "ok");
    }

    #[tokio::test]
    async fn a_ca_file_that_is_missing_fails_and_is_named() {
        let (_listener, target) = listen().await;
        let check = https_check(TlsCheck { server_name: None, ca_file: Some("/nonexistent/ca.pem".into()) });
        assert_eq!(
            http_outcome(target, check).await,
            "TLS: CA file /nonexistent/ca.pem: No such file or directory (os error 2)"
        );
    }

    #[tokio::test]
    async fn a_server_that_does_not_speak_tls_fails() {
        let target = server(async |mut stream: TcpStream| {
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            pending::<()>().await;
        })
        .await;
        let outcome = http_outcome(target, https_check(TlsCheck::default())).await;
        assert_eq!(outcome, "TLS: received corrupt message of type InvalidContentType");
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_the_handshake_times_out() {
        let target = server(async |_stream| pending().await).await;
        assert_eq!(
            http_outcome_in_time(target, https_check(TlsCheck::default())).await,
            "timed out after 500ms while negotiating TLS"
        );
    }
}
