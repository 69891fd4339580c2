// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A main stream of QEMU's: arbitrary parts in an arbitrary order, and arbitrary bytes behind them, read with arbitrary
//! knowledge of how they were written.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use stream_codec::qemu::{
    Command, Footers, Item, MainOptions, VmState, VmStateReader, Vmdesc, VmdescLimits, encode_configuration,
    encode_file_header,
};
use stream_codec_fuzz::check::{LIMITS, main_stream};
use stream_codec_fuzz::parts::MainPart;

const VMDESC_LIMITS: VmdescLimits = VmdescLimits { json_bytes: 4096, nodes: 64, depth: 16 };

/// A device with every shape of field, and a VFIO device without MSI-X.
const VMDESC: &str = r#"{"page_size":1024,"devices":[
{"name":"cpu","instance_id":1,"vmsd_name":"cpu","version":7,"fields":[
 {"name":"halted","type":"uint32","size":4},
 {"name":"lvt","type":"struct","size":3,"array_len":2,"struct":{"vmsd_name":"lvt","version":1,"fields":[
  {"name":"on","type":"bool","size":1},{"name":"vector","type":"uint16","size":2}]}},
 {"name":"regs","type":"uint64","size":8,"array_len":9}],
 "subsections":[{"vmsd_name":"cpu/msr","version":2,"fields":[{"name":"msr","type":"uint8","size":1,"index":5}]}]},
{"name":"00:01.0/vfio","instance_id":0,"fields":[{"name":"data","type":"buffer","size":292}]}]}"#;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    seed: u64,
    how: How,
    /// The stream starts with a file header and a configuration.
    is_started: bool,
    parts: Vec<MainPart<'a>>,
    /// Bytes behind the parts, as they are.
    rest: &'a [u8],
}

/// How the stream is read.
#[derive(Arbitrary, Debug)]
struct How {
    footers: Option<bool>,
    vmdesc_follows: bool,
    described: Described,
    page_bits: u8,
    has_page_size: bool,
    file_offset: u8,
}

#[derive(Arbitrary, Debug)]
enum Described {
    Not,
    /// By [`VMDESC`].
    Well,
    /// By what stands behind the end of the stream.
    ByItself,
    /// By `rest`.
    ByRest,
}

impl How {
    fn options(&self, vmdesc: Option<Vmdesc>) -> MainOptions {
        MainOptions {
            limits: LIMITS,
            vmdesc,
            footers: match self.footers {
                None => Footers::Detect,
                Some(true) => Footers::Present,
                Some(false) => Footers::Absent,
            },
            vmdesc_follows: self.vmdesc_follows,
            page_bits: self.page_bits.into(),
            blocks_with_page_size: if self.has_page_size { vec!["pc.rom".into()] } else { Vec::new() },
            file_offset: self.file_offset.into(),
        }
    }

    fn vmdesc(&self, stream: &[u8], rest: &[u8]) -> Option<Vmdesc> {
        let json = match self.described {
            Described::Not => return None,
            Described::Well => VMDESC.as_bytes(),
            Described::ByItself => &stream[Vmdesc::locate(stream)?],
            Described::ByRest => rest,
        };
        Vmdesc::parse(json, &VMDESC_LIMITS).ok()
    }
}

/// Whatever a vmdesc says of whatever payload: the fields follow each other and none is empty.
fn read_fields(vmdesc: &Vmdesc, payload: &[u8]) {
    for device in vmdesc.devices() {
        let mut reader = VmStateReader::new(vmdesc, device.name, device.instance_id, payload).expect("it is described");
        let mut rest = payload;
        let mut described_bytes = 0;
        let result = loop {
            match reader.next_part() {
                Ok(Some(event)) => {
                    assert_eq!(event.offset, described_bytes);
                    assert!(!event.raw.is_empty());
                    rest = rest.strip_prefix(event.raw).expect("events have the bytes of the payload");
                    described_bytes += event.raw.len() as u64;
                    if let VmState::Field(field) = event.item {
                        let _shown = (field.path.to_string(), field.value());
                        assert_eq!(field.path.steps().count(), field.path.depth());
                    }
                    let mut encoded = Vec::new();
                    event.item.encode(&mut encoded).expect("what was read can be written");
                    assert_eq!(encoded, event.raw);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // Several devices may have one name; the first is read.
        let first = vmdesc.devices().find(|other| (other.name, other.instance_id) == (device.name, device.instance_id));
        if result.is_ok() {
            assert!(rest.is_empty());
            assert_eq!(first.expect("it is listed").bytes, described_bytes);
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let mut stream = Vec::new();
    if input.is_started {
        encode_file_header(&mut stream);
        encode_configuration("none", &mut stream).expect("the name is short");
        Item::Command(Command::SwitchoverStart).encode(&mut stream).expect("it has no data");
    }
    input.parts.iter().for_each(|part| part.append(&mut stream));
    stream.extend_from_slice(input.rest);

    let vmdesc = input.how.vmdesc(&stream, input.rest);
    if let Some(vmdesc) = &vmdesc {
        read_fields(vmdesc, input.rest);
    }
    main_stream(&input.how.options(vmdesc), &stream, input.seed);
});
