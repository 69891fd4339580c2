// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is said about whole streams, and about those in which something is wrong.

use super::Run;
use super::samples::{Main, VFIO, VMDESC, channel, hisi, main, mlx5, mtty, native, native_answers, return_path};

const TTY: &str = "mig1:mdev-mtty/mtty/mtty-1/mtty@1.0;!ports=1";

#[track_caller]
fn has(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "no {wanted:?} in\n{text}");
    }
}

#[test]
fn a_main_stream_and_its_device() {
    let state = mtty();
    let stream = main(&state[..24], Some(&state[24..]), (0x4348, 0x3253));
    let mut run = Run::on(&[&stream]);
    let tree = run.tree();
    has(
        &tree,
        &[
            "configuration                   machine type pc-q35-10.0",
            "block pc.ram                  16384 bytes",
            "pc.ram: 1 page, 2 zero pages, at 0x0 to 0x2000 of the block",
            "DEV_SETUP_STATE, END_OF_STATE",
            "DEV_INIT_DATA_SENT",
            "PCI 4348:3253, config space of 256 bytes",
            "60 bytes of state, 24 before the switchover, 36 after",
            "mtty: recognised by its first bytes",
            "SCR 0x5a",
            // A name from the vmdesc, harmless.
            "outport\\u{202e}=12",
        ],
    );
    assert!(!tree.contains('\u{202e}'));
    assert!(run.check().is_good);
    let (outcome, extracted) = run.extract(VFIO);
    assert!(outcome.is_good, "{outcome:?}");
    assert_eq!(extracted, state);
}

#[test]
fn pages_are_told_one_by_one_if_asked() {
    let mut run = Run::on(&[&main(b"", Some(b"state"), (1, 2))]);
    assert_eq!(run.tree().matches("zero page pc.ram").count(), 0);
    run.options.all = true;
    let tree = run.tree();
    assert_eq!((tree.matches("zero page pc.ram").count(), tree.matches("\n").count() > 30), (2, true), "{tree}");
}

#[test]
fn a_section_of_many_pages_is_not_kept_as_a_whole() {
    use stream_codec::qemu::{Item, RamBlock, RamPage, RamRecord, SectionKind};
    let mut stream = Main::new();
    let block = RamBlock { name: "pc.ram", used_bytes: 1 << 30, page_bytes: None, address: None };
    let end = Item::Ram(RamRecord::EndOfSection);
    let list = [Item::Ram(RamRecord::MemSize { total_bytes: 1 << 30 }), Item::Ram(RamRecord::Block(block)), end];
    stream.section(SectionKind::Start, 1, "ram", 4, &list);
    let page = |number: u64| RamPage { block: "pc.ram", offset: number << 12, same_block: number > 0 };
    let zero = |number| Item::Ram(RamRecord::ZeroPage { page: page(number), fill: 0 });
    let pages: Vec<Item<'_>> = (0..10_000).map(zero).chain([end]).collect();
    stream.section(SectionKind::End, 1, "", 0, &pages);
    let mut run = Run::on(&[&stream.finish(VMDESC)]);
    run.options.all = true;
    let document = run.json();
    let items = document["migrations"][0]["files"][0]["items"].as_array().unwrap();
    let of_ram: Vec<_> = items.iter().filter(|item| item["kind"] == "END").collect();
    let counts: Vec<_> = of_ram.iter().map(|item| item["items"].as_array().unwrap().len()).collect();
    assert_eq!((counts.iter().sum::<usize>(), counts.len()), (10_000, 3), "{counts:?}");
    assert!(counts.iter().all(|count| *count <= 4096));
    run.options.all = false;
    has(&run.tree(), &["pc.ram: 10000 zero pages, at 0x0 to 0x270f000 of the block"]);
}

#[test]
fn packets_are_put_in_order_over_all_channels() {
    let state = mtty();
    let stream = main(&state[..24], None, (0, 0));
    let even = channel(0, &[(2, &state[50..]), (0, &state[24..40])]);
    let odd = channel(1, &[(3, b""), (1, &state[40..50])]);
    // In any order of files, with the answers among them.
    let mut run = Run::on(&[&odd, &return_path(0), &even, &stream]);
    let outcome = run.check();
    assert!(outcome.is_good, "{outcome:?}");
    let (outcome, extracted) = run.extract(VFIO);
    assert!(outcome.is_good, "{outcome:?}");
    assert_eq!(extracted, state);
    run.options.check = false;
    has(
        &run.tree(),
        &["2 packets (26 bytes) on channel 0, 2 packets (286 bytes) on channel 1", "SCR 0x5a", "SWITCHOVER_ACK"],
    );
    let json = run.json();
    assert_eq!(json["migrations"][0]["devices"][0]["packets"]["count"], 4);
    assert_eq!(json["migrations"][0]["files"].as_array().unwrap().len(), 4);
}

#[test]
fn many_packets_take_one_line() {
    let bytes = [1; 10];
    let mut packets: Vec<(u32, &[u8])> = (0..20).rev().map(|index| (index, &bytes[..])).collect();
    packets.push((20, b""));
    let mut run = Run::on(&[&channel(0, &packets)]);
    has(&run.tree(), &["×20, packets between 0 and 19, 200 bytes of state", "packet 20, 276 bytes config state"]);
    assert_eq!(run.tree().matches("DEVICE").count(), 2);
    run.options.all = true;
    assert_eq!(run.tree().matches("DEVICE").count(), 21);
    assert_eq!(run.json()["migrations"][0]["devices"][0]["state_bytes"], 200);
}

#[test]
fn packets_that_are_missing_or_there_twice_are_faults() {
    let state = mtty();
    let stream = main(&state[..24], None, (0, 0));
    let check = |channel: &[u8]| {
        let outcome = Run::on(&[&stream, channel]).check();
        assert!(!outcome.is_good, "{outcome:?}");
        outcome.text
    };
    has(&check(&channel(0, &[(0, b"a"), (2, b"b"), (3, b"")])), &["packet 1 is missing", "file1: fault at offset"]);
    has(&check(&channel(0, &[(3, b"a"), (4, b"")])), &["packets 0 to 2 are missing"]);
    has(&check(&channel(0, &[(0, b"a"), (1, b"b"), (1, b"b"), (2, b"")])), &["packet 1 was sent before, on channel 0"]);
    has(&check(&channel(0, &[(0, b"a"), (1, b""), (2, b"b")])), &["packet 1 ended the device, but this follows it"]);
    has(&check(&channel(0, &[(0, b"a"), (1, b"b")])), &["no config packet"]);
    has(&check(&channel(0, &[])), &["no channel has packets of it"]);
    let twice = Run::on(&[&stream, &channel(1, &[(0, b"a"), (1, b"")]), &channel(1, &[])]).check();
    has(&twice.text, &["channel 1 again"]);
    // Without any channel nothing can be said.
    assert!(Run::on(&[&stream]).check().is_good);
    has(&Run::on(&[&stream]).tree(), &["went over multifd channels, which are not among the FILEs"]);
}

#[test]
fn a_target_that_failed_is_a_fault() {
    let outcome = Run::on(&[&return_path(1)]).check();
    has(&outcome.text, &["fault at offset 12", "SHUT with status 1", "log of the target"]);
    assert!(!outcome.is_good);
}

#[test]
fn our_own_streams_with_states_by_identity() {
    let (tty, zip, cx) = (mtty(), hisi(), mlx5());
    let zip_identity = "mig1:pci-19e5/hisi_acc_vfio_pci/a251/hisi_acc@2.0";
    let cx_identity = "mig1:pci-15b3/mlx5_vfio_pci/101e/mlx5@2.1";
    let devices = [
        ("tty", TTY, &tty[..24], &tty[24..]),
        ("zip", zip_identity, &zip[..40], &zip[40..]),
        ("cx", cx_identity, &cx[..57], &cx[57..]),
    ];
    let stream = native(&devices);
    let mut run = Run::on(&[&stream]);
    has(
        &run.tree(),
        &[
            "mtty: its identity says so",
            "PCI device id: ZIP",
            "FW_DATA 0, initial image",
            "FW_DATA 1, final image",
            "frame Commit",
        ],
    );
    assert!(run.check().is_good);
    for (name, state) in [("tty", &tty), ("zip", &zip), ("cx", &cx)] {
        assert_eq!(&Run::on(&[&stream]).extract(name).1, state, "{name}");
    }
    let nobody = Run::on(&[&stream]).extract("nobody").0;
    assert!(!nobody.is_good);
}

#[test]
fn states_that_must_not_be_loaded_are_faults_with_their_place_in_the_file() {
    let mut tty = mtty();
    tty[48] = 200;
    let outcome = Run::on(&[&native(&[("tty", TTY, &tty[..24], &tty[24..])])]).check();
    has(&outcome.text, &["byte 48 of the device's state", "head of port 0's FIFO is 200", "c8 00 05"]);

    // The same state, but of a device with two ports, or of another accelerator.
    let tty = mtty();
    let two = TTY.replace("ports=1", "ports=2");
    let outcome = Run::on(&[&native(&[("tty", &two, &tty[..24], &tty[24..])])]).check();
    has(&outcome.text, &["number of ports is 0x1; the driver takes 0x2 only"]);
    let zip = hisi();
    let sec = "mig1:pci-19e5/hisi_acc_vfio_pci/a256/hisi_acc@2.0";
    let outcome = Run::on(&[&native(&[("zip", sec, &zip[..40], &zip[40..])])]).check();
    has(&outcome.text, &["dev_id is 0xa251, but the device is 19e5:a256"]);
    let outcome = Run::on(&[&main(b"", Some(&zip), (0x19e5, 0xa259))]).check();
    has(&outcome.text, &["dev_id is 0xa251, but the device is 19e5:a259", "byte 12 of the device's state"]);

    // Complete as a stream, but the device had not said everything.
    let cx = mlx5();
    let identity = "mig1:pci-15b3/mlx5_vfio_pci/101e/mlx5@2.1";
    let outcome = Run::on(&[&native(&[("cx", identity, &cx[..30], &cx[30..50])])]).check();
    has(&outcome.text, &["the state of device cx"]);
    assert!(!outcome.is_good);
}

#[test]
fn digests_and_order_of_our_own_streams_are_checked() {
    let tty = mtty();
    let stream = native(&[("tty", TTY, &tty[..24], &tty[24..])]);
    // The last bytes of a DeviceEnd are its digest; the frame is made anew so that its checksums fit.
    let other = native(&[("tty", TTY, &tty[..24], &[0; 36])]);
    let end = stream.len() - 32 - 56;
    let mixed = [&stream[..end], &other[end..]].concat();
    let outcome = Run::on(&[&mixed]).check();
    has(&outcome.text, &["the bytes of device 0 give CRC-64", &format!("fault at offset {end}")]);
    let early = [&stream[..end], &stream[stream.len() - 32..]].concat();
    has(&Run::on(&[&early]).check().text, &["a Commit while 1 devices are not"]);
}

#[test]
fn what_the_target_loaded_is_what_the_source_sent() {
    let tty = mtty();
    let source = native(&[("tty", TTY, &tty[..24], &tty[24..])]);
    let mut running = savevm_core::digest::Digest::new();
    running.update(&tty);
    let crc = running.sum().crc64_nvme;
    let good = Run::on(&[&native_answers(60, crc), &source]).check();
    assert!(good.is_good, "{good:?}");
    let other = Run::on(&[&native_answers(60, crc ^ 1), &source]).check();
    has(&other.text, &["file0: fault at offset", "the target loaded 60 bytes of device 0, CRC-64", "the source sent"]);
    assert!(!other.is_good);
    // The answers of another session are another migration.
    let mut stranger = native_answers(60, crc);
    stranger.truncate(16);
    assert!(!Run::on(&[&stranger]).check().is_good);
}

#[test]
fn a_format_that_is_said_counts_more_than_what_is_seen() {
    let records = mlx5();
    has(&Run::on(&[&records]).format("virtio").tree(), &["virtio VF: --format says so", "DEVICE_DATA"]);
    let stream = main(b"", Some(&records), (0x15b3, 0x101e));
    has(&Run::on(&[&stream]).tree(), &["mlx5): recognised by its first bytes"]);
    has(&Run::on(&[&stream]).format(&format!("{VFIO}=virtio")).tree(), &["virtio VF: --format says so"]);
    let opaque = main(b"", Some(b"bytes of no known kind"), (0x15b3, 0x101e));
    has(&Run::on(&[&opaque]).tree(), &["format not known", "by its PCI id, a ConnectX VF writes records"]);
    has(&Run::on(&[&stream]).format("nobody=virtio").tree(), &["mlx5): recognised by its first bytes"]);
}

#[test]
fn names_that_would_turn_text_around_are_escaped() {
    let mut stream = Main::new();
    let name = "evil\u{202e}exe/vfio";
    use stream_codec::qemu::{Item, SectionKind, VfioRecord};
    let flags = [Item::Vfio(VfioRecord::Setup), Item::Vfio(VfioRecord::EndOfState)];
    stream.section(SectionKind::Start, 2, name, 1, &flags);
    let run = Run::on(&[&stream.finish(VMDESC)]);
    let tree = run.tree();
    assert!(tree.contains("evil\\u{202e}exe/vfio") && !tree.contains('\u{202e}'), "{tree}");
    assert_eq!(run.json()["migrations"][0]["files"][0]["items"][2]["name"], name);
}

#[test]
fn a_vmdesc_that_is_broken_is_a_fault_but_the_stream_is_explained() {
    let mut stream = Main::new();
    stream.item(&stream_codec::qemu::Item::Command(stream_codec::qemu::Command::SwitchoverStart));
    let run = Run::on(&[&stream.finish(r#"{"devices": [7]}"#)]);
    let tree = run.tree();
    has(&tree, &["FULL port92", "end found by searching for the footer", "the vmdesc"]);
}

#[test]
fn several_migrations_are_kept_apart() {
    let (one, other) = (mtty(), hisi());
    let run =
        Run::on(&[&main(b"", Some(&one), (0x4348, 0x3253)), &other, &native(&[("tty", TTY, &one[..24], &one[24..])])]);
    assert_eq!(run.json()["migrations"].as_array().unwrap().len(), 3);
    let two = main(b"", Some(&one), (0x4348, 0x3253));
    let outcome = Run::on(&[&two, &two, &return_path(0)]).check();
    has(&outcome.text, &["inspect one migration at a time"]);
}
