//! The HTTP servers of the backends.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    paths::{Paths, binary},
    process::Process,
    run::wait_for,
    topology::Node,
};

/// What answers on a backend's port 80: its name as the body and in the header `X-Backend`; `/healthz` says `ok`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Server {
    /// `lab-agent backend`.
    #[default]
    Agent,
    Nginx,
}

impl Server {
    pub(super) fn command(self, paths: &Paths, node: &Node) -> Result<Command> {
        match self {
            Self::Agent => {
                let mut command = node.command(binary("lab-agent")?);
                command.args(["backend", "--name", node.name(), "--listen", "[::]:80"]);
                Ok(command)
            }
            Self::Nginx => {
                let config = paths.dir().join(format!("nginx-{}.conf", node.name()));
                fs::write(&config, nginx_config(paths, node.name()))
                    .with_context(|| format!("write {}", config.display()))?;
                let mut command = node.command("nginx");
                command.arg("-c").arg(config);
                Ok(command)
            }
        }
    }
}

fn nginx_config(paths: &Paths, name: &str) -> String {
    let dir = paths.dir();
    let dir = dir.display();
    format!(
        r#"daemon off;
# One process: the lab ends it by its pid.
master_process off;
pid {dir}/nginx-{name}.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_body_temp_path {dir}/nginx-{name};
    server {{
        listen 80;
        listen [::]:80;
        add_header X-Backend {name} always;
        location / {{ return 200 "{name}\n"; }}
        location /healthz {{ return 200 "ok\n"; }}
    }}
}}
"#
    )
}

/// Waits until the node's port 80 takes connections.
pub(super) fn wait_until_serving(node: &Node, server: &mut Process) -> Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    node.namespace().inside(|| {
        let what = format!("the HTTP server of {}", node.name());
        wait_for(&what, Duration::from_secs(5), || {
            server.ensure_running()?;
            Ok(TcpStream::connect(address).ok())
        })
    })?;
    Ok(())
}

/// Lets `lab-agent backend` on the node take so long for each answer.
pub(super) fn set_delay(node: &Node, delay: Duration) -> Result<()> {
    let delay = format!("{}ms", delay.as_millis());
    let head = "PUT /delay HTTP/1.1\r\nHost: lab\r\nConnection: close\r\nContent-Type: text/plain";
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{delay}", delay.len());
    let answer = node.namespace().inside(|| {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, 80))?;
        connection.write_all(request.as_bytes())?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    })?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{} answers to PUT /delay: {answer}", node.name());
    Ok(())
}
