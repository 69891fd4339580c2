// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `migrate` over TLS and with `-v`, as a user runs it, on simulated devices.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod soft;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Output, Stdio};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;

const MACHINE: &str = "kernel=7.3
device card0 model=plain caps=7 initial=1MiB dirty=1MiB stop=3MiB seed=1
device card1 model=plain caps=7 initial=1MiB dirty=1MiB stop=3MiB seed=1";
const CARD: [&str; 2] = ["0000:a0:00.0", "0000:a1:00.0"];

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// The options of a side with a certificate for `name`, signed by one authority, that trusts one.
fn options(folder: &Path, by: &Authority, trusts: &Authority, name: &str) -> Vec<String> {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, by).unwrap();
    let files = [("cert", cert.pem()), ("key", key.serialize_pem()), ("ca", trusts.pem())];
    let write = |(what, text): (&str, String)| {
        let path = folder.join(format!("{name}-{what}.pem"));
        std::fs::write(&path, text).unwrap();
        [format!("--tls-{what}"), path.display().to_string()]
    };
    files.into_iter().flat_map(write).collect()
}

struct Target {
    child: Child,
    said: BufReader<std::process::ChildStderr>,
    address: String,
}

fn target(more: &[String]) -> Target {
    let fixed = ["migrate", "target", "--json", "--timeout", "5", "--from", "tcp:127.0.0.1:0", "--device"];
    let device = format!("card={}", CARD[1]);
    let arguments: Vec<&str> =
        fixed.into_iter().chain([device.as_str()]).chain(more.iter().map(String::as_str)).collect();
    let mut child = soft::xtask(MACHINE, &arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned();
    Target { child, said, address }
}

impl Target {
    fn hears(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        line
    }

    fn ends(self) -> (bool, Value) {
        let output = self.child.wait_with_output().unwrap();
        (output.status.success(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

fn source(address: &str, more: &[String]) -> Output {
    let device = format!("card={}", CARD[0]);
    let fixed = ["migrate", "source", "--json", "--timeout", "5", "--device", &device, "--to", address];
    let arguments: Vec<&str> = fixed.into_iter().chain(more.iter().map(String::as_str)).collect();
    soft::xtask(MACHINE, &arguments).output().unwrap()
}

fn error(output: &Output) -> String {
    assert!(!output.status.success());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["devices"][0]["state"], "RUNNING", "{report}");
    report["error"].as_str().unwrap().to_owned()
}

fn and(options: &[String], more: &[&str]) -> Vec<String> {
    options.iter().cloned().chain(more.iter().map(|text| (*text).to_owned())).collect()
}

/// Strangers come first; none of them reaches the devices or keeps the right one out.
#[test]
fn strangers_are_refused_until_the_right_one_comes() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, others) = (authority(), authority());
    let here = options(folder.path(), &ours, &ours, "source.test");
    let there = options(folder.path(), &ours, &ours, "127.0.0.1");
    let foreign = options(folder.path(), &others, &ours, "foreign.test");
    let mut target = target(&and(&there, &["--channels", "2", "--tls-name", "source.test"]));
    let address = target.address.clone();

    let refused = error(&source(&address, &[]));
    assert!(refused.contains("the peer speaks TLS, and this side does not"), "{refused}");
    assert!(target.hears().contains("turned a connection away: the peer does not speak TLS"));
    let refused = error(&source(&address, &and(&foreign, &[])));
    assert!(refused.contains("the peer refuses this side's certificate"), "{refused}");
    assert!(target.hears().contains("turned a connection away: the peer's certificate is refused"));
    let refused = error(&source(&address, &and(&here, &["--tls-name", "elsewhere.test"])));
    assert!(refused.contains("it is for somebody else"), "{refused}");
    assert!(target.hears().contains("turned a connection away: "));

    let moved = source(&address, &and(&here, &["--channels", "2"]));
    assert!(moved.status.success(), "{moved:?}");
    let (is_done, arrived) = target.ends();
    assert!(is_done, "{arrived}");
    let left: Value = serde_json::from_slice(&moved.stdout).unwrap();
    assert_eq!(left["devices"][0]["crc64_nvme"], arrived["devices"][0]["crc64_nvme"]);
    assert_eq!(left["devices"][0]["bytes"], arrived["devices"][0]["bytes"]);
}

#[test]
fn a_target_without_tls_says_so_to_a_source_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let ours = authority();
    let here = options(folder.path(), &ours, &ours, "source.test");
    let mut target = target(&[]);
    let refused = error(&source(&target.address, &here));
    assert!(refused.contains("the peer closed the connection at the first word of TLS"), "{refused}");
    let said = target.hears();
    assert!(said.contains("the peer speaks TLS, and this side does not"), "{said}");
    let moved = source(&target.address, &[]);
    assert!(moved.status.success(), "{moved:?}");
    assert!(target.ends().0, "the one that speaks as the target does is taken");
}

#[test]
fn options_that_belong_together_are_asked_for_together() {
    let output = source("unix:/nowhere", &["--tls-cert".into(), "cert.pem".into()]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--tls-key") && said.contains("--tls-ca"), "{said}");
}

#[test]
fn verbose_tells_what_happens_and_why() {
    let target = target(&[]);
    let told = source(&target.address, &["-vv".into()]);
    assert!(told.status.success(), "{told:?}");
    assert!(target.ends().0);
    let said = String::from_utf8_lossy(&told.stderr);
    for part in
        ["pre-copy", "stop-copy", "commit", "decision=\"switch over\"", "reason=", "device=\"card\"", "transition"]
    {
        assert!(said.contains(part), "{part} in {said}");
    }
    let silent = source("unix:/no/such/socket", &["--timeout".into(), "0.1".into()]);
    assert!(!silent.status.success());
}
