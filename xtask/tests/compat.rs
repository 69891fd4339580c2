// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! `compat` as a user and a management layer run it, on simulated devices: answers, reasons and exit statuses.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod soft;

use std::fs;
use std::process::Output;

use serde_json::Value;

const MACHINE: &str = "kernel=7.3
device serial0 model=mtty ports=2
device serial1 model=mtty ports=2
device narrow model=mtty ports=1
device card0 model=plain caps=7 initial=1MiB dirty=1MiB stop=3MiB seed=1
device card1 model=plain caps=7 initial=1MiB dirty=1MiB stop=3MiB seed=1";

const SERIAL: [&str; 2] = ["50f7f10c-0000-4000-8000-000000000000", "50f7f10c-0000-4000-8000-000000000001"];
const NARROW: &str = "50f7f10c-0000-4000-8000-000000000002";
const CARD: [&str; 2] = ["0000:a3:00.0", "0000:a4:00.0"];
const MTTY: &str = "mig1:mdev-mtty/mtty/mtty-2/mtty@1.0;!ports=2";

fn run(arguments: &[&str]) -> Output {
    soft::xtask(MACHINE, arguments).output().unwrap()
}

/// The exit status and the one JSON document of a comparison.
fn compare(source: &str, target: &str, more: &[&str]) -> (i32, Value) {
    let mut arguments = vec!["compat", "--json", source, target];
    arguments.extend(more);
    let output = run(&arguments);
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error} in {output:?}"));
    (output.status.code().unwrap(), document)
}

fn codes(document: &Value) -> Vec<&str> {
    document["reasons"].as_array().unwrap().iter().map(|reason| reason["code"].as_str().unwrap()).collect()
}

#[test]
fn devices_of_one_kind_fit_each_other() {
    let (status, answer) = compare(SERIAL[0], SERIAL[1], &[]);
    assert_eq!((status, &answer["compatible"], codes(&answer).len()), (0, &Value::Bool(true), 0));
    assert_eq!(answer["compared_by"], "instance");
    for (side, name) in [("source", SERIAL[0]), ("target", SERIAL[1])] {
        assert_eq!(answer[side]["name"], name);
        assert_eq!(answer[side]["origin"], "device");
        assert_eq!(answer[side]["identity"], MTTY);
        assert_eq!(answer[side]["notes"], serde_json::json!([]));
    }
    // A driver this program does not know, by the character device on one side.
    let (status, answer) = compare(CARD[0], "/dev/vfio/devices/vfio4", &[]);
    assert_eq!((status, &answer["compatible"]), (0, &Value::Bool(true)));
    assert_eq!(answer["target"]["identity"], "mig1:pci-1af4/softvfio-plain/10f0/softvfio-plain@0.0;revision=00");
    assert!(answer["target"]["notes"][0].as_str().unwrap().contains("not known to this program"), "{answer}");
}

#[test]
fn every_reason_is_listed_for_people_and_programs() {
    let (status, answer) = compare(SERIAL[0], NARROW, &[]);
    assert_eq!(status, 1);
    assert_eq!(answer["compatible"], false);
    assert_eq!(codes(&answer), ["type", "attribute-differs"]);
    let (status, answer) = compare(CARD[0], NARROW, &[]);
    assert_eq!((status, codes(&answer)), (1, vec!["namespace", "driver", "type", "format-name", "attribute-unknown"]));

    let output = run(&["compat", SERIAL[0], NARROW]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    for said in [
        MTTY,
        "not compatible, for 2 reasons:",
        "choose a target device of type mtty-2",
        "configure the target's device with ports=2",
    ] {
        assert!(text.contains(said), "{said}: {text}");
    }
    let output = run(&["compat", SERIAL[0], SERIAL[1]]);
    assert!(String::from_utf8(output.stdout).unwrap().lines().any(|line| line == "compatible"));
}

#[test]
fn a_type_is_enough_and_says_what_to_make() {
    let (status, answer) = compare(SERIAL[0], "mdev-type:mtty-2", &[]);
    assert_eq!((status, codes(&answer).len(), &answer["compared_by"]), (0, 0, &Value::from("type")));
    assert_eq!(answer["target"]["origin"], "mdev-type");
    assert!(answer["target"]["notes"][0].as_str().unwrap().contains("available_instances is 0"), "{answer}");
    let (status, answer) = compare(SERIAL[0], "mdev-type:mtty-1", &[]);
    assert_eq!((status, codes(&answer)), (1, vec!["type"]));
    assert_eq!(answer["must_have"], serde_json::json!([{ "key": "ports", "value": "2" }]));
    let (status, answer) = compare(SERIAL[0], NARROW, &["--by-type"]);
    assert_eq!((status, codes(&answer)), (1, vec!["type"]));

    let vf = |attributes: &str| format!("mig1:pci-19e5/hisi_acc_vfio_pci/a256/hisi_acc@2.0(1.0..2.65535){attributes}");
    let (source, target) = (vf(";!queues=64;!isolation=1"), vf(";!queues=32"));
    assert_eq!(codes(&compare(&source, &target, &[]).1), ["attribute-unknown", "attribute-differs"]);
    let (status, answer) = compare(&source, &target, &["--by-type"]);
    assert_eq!((status, codes(&answer).len()), (0, 0));
    assert_eq!(answer["must_have"].as_array().unwrap().len(), 2);
    let output = run(&["compat", "--by-type", &source, &target]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("compatible by type\n  the target's device must have isolation=1\n"), "{text}");
}

#[test]
fn what_was_written_elsewhere_is_compared_here() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (one, all, plain, stream) = (path("one.json"), path("all.json"), path("plain.json"), path("state"));
    fs::write(&one, run(&["probe", "--json", SERIAL[0]]).stdout).unwrap();
    fs::write(&all, run(&["probe", "--json"]).stdout).unwrap();
    fs::write(&plain, format!("{{\"identity\": \"{MTTY}\"}}")).unwrap();
    let (tty, net) = (format!("tty={}", SERIAL[0]), format!("net={}", CARD[0]));
    let to = format!("file:{stream}");
    let saved = run(&["migrate", "source", "--json", "--device", &net, "--device", &tty, "--to", &to]);
    assert!(saved.status.success(), "{saved:?}");
    let report = path("report.json");
    fs::write(&report, &saved.stdout).unwrap();

    for (source, origin, name) in [
        (one.clone(), "json", one.clone()),
        (plain.clone(), "json", plain.clone()),
        (format!("{all}#{}", SERIAL[0]), "json", format!("{all}#{}", SERIAL[0])),
        (format!("{report}#tty"), "json", format!("{report}#tty")),
        (format!("{stream}#tty"), "stream", format!("{stream}#tty")),
        (MTTY.to_owned(), "text", MTTY.to_owned()),
    ] {
        let (status, answer) = compare(&source, SERIAL[1], &[]);
        assert_eq!((status, &answer["source"]["origin"]), (0, &Value::from(origin)), "{answer}");
        assert_eq!(answer["source"]["name"], name);
        assert_eq!(answer["source"]["identity"], MTTY);
        assert_eq!(compare(&source, CARD[1], &[]).0, 1);
    }
    assert_eq!(compare(&format!("{stream}#net"), CARD[1], &[]).0, 0);

    // Only the head of a stream is needed: what follows, here in the middle of the card's data, may still be on its way.
    let whole = fs::read(&stream).unwrap();
    fs::write(&stream, &whole[..4096]).unwrap();
    assert_eq!(compare(&format!("{stream}#net"), CARD[1], &[]).0, 0);
    // A VMM's own names are compared as they are.
    fs::write(&plain, "{\"identity\": \"ours\"}").unwrap();
    assert_eq!(compare(&plain, &plain, &[]).0, 0);
    let (status, answer) = compare(&plain, SERIAL[1], &[]);
    assert_eq!((status, codes(&answer)), (1, vec!["opaque"]));
}

#[test]
fn what_cannot_be_read_is_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (all, stream, empty, noise, failure) =
        (path("all"), path("stream"), path("empty"), path("noise"), path("failure"));
    fs::write(&all, run(&["probe", "--json"]).stdout).unwrap();
    let saved = run(&["migrate", "source", "--device", CARD[0], "--to", &format!("file:{stream}")]);
    assert!(saved.status.success(), "{saved:?}");
    let whole = fs::read(&stream).unwrap();
    fs::write(&stream, &whole[..100]).unwrap();
    fs::write(&empty, "[]").unwrap();
    fs::write(&noise, "\u{89}no").unwrap();
    fs::write(&failure, run(&["probe", "--json", "0000:ff:1f.7"]).stdout).unwrap();
    let unbound = path("unbound");
    fs::write(&unbound, "[{\"name\": \"x\", \"identity\": null, \"identity_notes\": [\"It is bound to vfio-pci.\"]}]")
        .unwrap();

    for (operand, reason) in [
        ("0000:ff:1f.7", "there is no VFIO device '0000:ff:1f.7' and no file of that name; there is"),
        ("mdev-type:mtty-9", "there is no type 'mtty-9' of mediated devices; there is mtty-1, mtty-2"),
        ("mig1:pci-19e5/driver", "column 21: expected more of the driver, or '/' and the type"),
        (all.as_str(), "has several devices: choose one of"),
        (&format!("{all}#nobody"), "has no device 'nobody'; there is"),
        (&stream, "at stream offset"),
        (&empty, "has no device"),
        (&noise, "neither a stream of this program nor JSON"),
        (&failure, "it holds the failure of a command: there is no VFIO device"),
        (&unbound, "x has no migration identity: It is bound to vfio-pci."),
    ] {
        let (status, answer) = compare(operand, SERIAL[0], &[]);
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(status, 2, "{operand}");
        assert!(error.starts_with("SOURCE: ") && error.contains(reason), "{operand}: {error}");
        let output = run(&["compat", SERIAL[0], operand]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.starts_with("TARGET: ") && output.stdout.is_empty(), "{output:?}");
        assert_eq!(output.status.code(), Some(2));
    }
    let (_, both) = compare("nothing", "nowhere", &[]);
    let error = both["error"].as_str().unwrap();
    assert!(error.contains("SOURCE: ") && error.contains("; TARGET: "), "{error}");
}
