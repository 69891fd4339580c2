// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! `VFIO_DEVICE_FEATURE`: what may be asked, in which form, and in which order the kernel checks.

use nix::errno::Errno;
use vfio_mig_fsm::State;

use super::check::{Checked, ensure, expect, must, refuse};
use super::context::Ctx;
use super::raw::{self, GET, PROBE, SET};
use super::{Need, Test, test};
use crate::hw_test::event::Group;

const MIGRATION: u32 = 1;
const DEVICE_STATE: u32 = 2;
const DATA_SIZE: u32 = 9;
const PRECOPY_INFO_V2: u32 = 12;
/// No kernel has so many features.
const UNKNOWN: u32 = 0xfff0;

const EINVAL: &[Errno] = &[Errno::EINVAL];

/// The tests of this group.
pub(super) const TESTS: &[Test] = &[
    test(Group::Features, "MIGRATION announces a legal set", &[], legal_flags),
    test(Group::Features, "PROBE of what exists succeeds with argsz 8", &[], probes),
    test(Group::Features, "PROBE of an operation that does not exist is EINVAL", &[], wrong_probes),
    test(Group::Features, "an unknown feature is ENOTTY", &[], unknown_feature),
    test(Group::Features, "argsz below the payload is EINVAL", &[], short_argsz),
    test(Group::Features, "argsz 64 is accepted", &[], long_argsz),
    test(Group::Features, "reserved flags are EINVAL", &[], reserved_flags),
    test(Group::Features, "GET and SET together need PROBE", &[], both_operations),
    test(Group::Features, "neither GET nor SET is EINVAL", &[], no_operation),
    test(Group::Features, "an operation the feature lacks is EINVAL", &[], wrong_operation),
    test(Group::Features, "header checks come before the feature is looked up", &[], check_order),
    test(Group::Features, "a bad pointer is EFAULT", &[], bad_pointer),
    test(Group::Features, "GET of the state gives data_fd -1", &[], get_state),
    test(Group::Features, "MIG_DATA_SIZE answers in every state", &[], data_size),
    test(Group::Features, "PRECOPY_INFOv2: PROBE and flag rules", &[Need::PreCopy], info_v2_rules),
    test(Group::Features, "PRECOPY_INFOv2 is EINVAL without PRE_COPY", &[Need::NoPreCopy], info_v2_without_pre_copy),
    test(Group::Features, "PRECOPY_INFOv2 opt-in lasts until the device is closed", &[Need::PreCopy], info_v2_opt_in),
];

fn feature(ctx: &Ctx, argsz: u32, flags: u32) -> Checked<Result<[u8; 64], i32>> {
    let mut buffer = [0; 64];
    let answer = raw::feature(ctx.first.device()?, argsz, flags, &mut buffer);
    Ok(answer.map(|()| buffer))
}

fn refused(ctx: &Ctx, what: &str, argsz: u32, flags: u32, expected: &[Errno]) -> Checked {
    refuse(what, feature(ctx, argsz, flags)?.map(|_| ()), expected).map(|_| ())
}

fn accepted(ctx: &Ctx, what: &str, argsz: u32, flags: u32) -> Checked<[u8; 64]> {
    let answer = feature(ctx, argsz, flags)?;
    must(what, answer.map_err(|errno| super::check::name(Errno::from_raw(errno))))
}

fn legal_flags(ctx: &mut Ctx) -> Checked {
    let answer = accepted(ctx, "GET of MIGRATION", 16, MIGRATION | GET)?;
    let flags = raw::u64_at(&answer, 8);
    ensure(flags & 1 == 1, || format!("flags {flags:#x} lack STOP_COPY, which is mandatory"))?;
    expect("MIGRATION flags this suite knows", flags & 7, ctx.first.caps.flags())?;
    let typed = must("migration_flags", ctx.first.device()?.migration_flags())?;
    expect("flags by the library", typed.map(|flags| flags.bits()), Some(flags))
}

fn probes(ctx: &mut Ctx) -> Checked {
    for (what, flags) in [
        ("PROBE GET of MIGRATION", MIGRATION | PROBE | GET),
        ("PROBE GET of MIG_DEVICE_STATE", DEVICE_STATE | PROBE | GET),
        ("PROBE SET of MIG_DEVICE_STATE", DEVICE_STATE | PROBE | SET),
        ("PROBE GET SET of MIG_DEVICE_STATE", DEVICE_STATE | PROBE | GET | SET),
        ("PROBE GET of MIG_DATA_SIZE", DATA_SIZE | PROBE | GET),
        ("PROBE of MIGRATION without an operation", MIGRATION | PROBE),
    ] {
        accepted(ctx, what, 8, flags)?;
    }
    Ok(())
}

fn wrong_probes(ctx: &mut Ctx) -> Checked {
    refused(ctx, "PROBE SET of MIGRATION", 8, MIGRATION | PROBE | SET, EINVAL)?;
    refused(ctx, "PROBE GET SET of MIGRATION", 8, MIGRATION | PROBE | GET | SET, EINVAL)?;
    refused(ctx, "PROBE SET of MIG_DATA_SIZE", 8, DATA_SIZE | PROBE | SET, EINVAL)
}

fn unknown_feature(ctx: &mut Ctx) -> Checked {
    let old: &[Errno] = &[Errno::ENOTTY, Errno::EINVAL];
    let expected = if ctx.kernel.knows_unknown_features() { &[Errno::ENOTTY] } else { old };
    refused(ctx, "PROBE of an unknown feature", 8, UNKNOWN | PROBE | GET, expected)?;
    refused(ctx, "GET of an unknown feature", 64, UNKNOWN | GET, expected)
}

fn short_argsz(ctx: &mut Ctx) -> Checked {
    for argsz in [0, 7] {
        refused(ctx, &format!("PROBE of MIGRATION with argsz {argsz}"), argsz, MIGRATION | PROBE | GET, EINVAL)?;
    }
    for (feature, name) in [(MIGRATION, "MIGRATION"), (DEVICE_STATE, "MIG_DEVICE_STATE"), (DATA_SIZE, "MIG_DATA_SIZE")]
    {
        for argsz in [8, 15] {
            refused(ctx, &format!("GET of {name} with argsz {argsz}"), argsz, feature | GET, EINVAL)?;
        }
    }
    refused(ctx, "SET of MIG_DEVICE_STATE with argsz 8", 8, DEVICE_STATE | SET, EINVAL)?;
    ctx.first.expect_state("after the refused SET", State::Running)
}

fn long_argsz(ctx: &mut Ctx) -> Checked {
    for (feature, name) in [(MIGRATION, "MIGRATION"), (DEVICE_STATE, "MIG_DEVICE_STATE"), (DATA_SIZE, "MIG_DATA_SIZE")]
    {
        accepted(ctx, &format!("GET of {name} with argsz 64"), 64, feature | GET)?;
    }
    accepted(ctx, "PROBE of MIGRATION with argsz 64", 64, MIGRATION | PROBE | GET).map(|_| ())
}

fn reserved_flags(ctx: &mut Ctx) -> Checked {
    for bit in 19..32_u32 {
        let flag = 1_u32.checked_shl(bit).unwrap_or(0);
        refused(ctx, &format!("GET of MIGRATION with flag bit {bit}"), 16, MIGRATION | GET | flag, EINVAL)?;
        refused(ctx, &format!("PROBE of MIGRATION with flag bit {bit}"), 16, MIGRATION | PROBE | GET | flag, EINVAL)?;
    }
    Ok(())
}

fn both_operations(ctx: &mut Ctx) -> Checked {
    refused(ctx, "GET SET of MIG_DEVICE_STATE", 16, DEVICE_STATE | GET | SET, EINVAL)?;
    refused(ctx, "GET SET of an unknown feature", 16, UNKNOWN | GET | SET, EINVAL)
}

fn no_operation(ctx: &mut Ctx) -> Checked {
    for feature in [MIGRATION, DEVICE_STATE, DATA_SIZE] {
        refused(ctx, &format!("feature {feature} without an operation"), 16, feature, EINVAL)?;
    }
    Ok(())
}

fn wrong_operation(ctx: &mut Ctx) -> Checked {
    refused(ctx, "SET of MIGRATION", 16, MIGRATION | SET, EINVAL)?;
    refused(ctx, "SET of MIG_DATA_SIZE", 16, DATA_SIZE | SET, EINVAL)
}

fn check_order(ctx: &mut Ctx) -> Checked {
    refused(ctx, "unknown feature with argsz 7", 7, UNKNOWN | PROBE | GET, EINVAL)?;
    refused(ctx, "unknown feature with a reserved flag", 16, UNKNOWN | PROBE | GET | 0x8_0000, EINVAL)
}

fn bad_pointer(ctx: &mut Ctx) -> Checked {
    refuse("VFIO_DEVICE_FEATURE of a null pointer", raw::feature_at_null(ctx.first.device()?), &[Errno::EFAULT])
        .map(|_| ())
}

fn get_state(ctx: &mut Ctx) -> Checked {
    for state in ctx.first.states() {
        let _data = ctx.first.enter(state)?;
        let answer = accepted(ctx, "GET of MIG_DEVICE_STATE", 16, DEVICE_STATE | GET)?;
        expect("device_state", raw::u32_at(&answer, 8), state.raw())?;
        expect(&format!("data_fd of a GET in {state}"), raw::u32_at(&answer, 12), u32::MAX)?;
    }
    Ok(())
}

fn data_size(ctx: &mut Ctx) -> Checked {
    for state in ctx.first.states() {
        let _data = ctx.first.enter(state)?;
        let answer = accepted(ctx, &format!("GET of MIG_DATA_SIZE in {state}"), 16, DATA_SIZE | GET)?;
        let bytes = raw::u64_at(&answer, 8);
        ctx.note(format!("{state}: {bytes} bytes"));
        // An errno stored into the field is a known driver fault; no device has 2^63 bytes of state.
        ensure(bytes < 1 << 63, || format!("MIG_DATA_SIZE in {state} is absurd: {bytes:#x}"))?;
    }
    Ok(())
}

/// Errnos of a kernel that does not know PRECOPY_INFOv2 yet.
const ABSENT: &[Errno] = &[Errno::ENOTTY, Errno::EINVAL];

fn has_info_v2(ctx: &Ctx) -> Checked<bool> {
    let answer = feature(ctx, 8, PRECOPY_INFO_V2 | PROBE)?;
    let known = answer.is_ok();
    if !known {
        refuse("PROBE of PRECOPY_INFOv2", answer.map(|_| ()), ABSENT)?;
    }
    expect(&format!("kernel {} knows PRECOPY_INFOv2", ctx.kernel), known, ctx.kernel.has_precopy_info_v2())?;
    Ok(known)
}

fn info_v2_rules(ctx: &mut Ctx) -> Checked {
    if !has_info_v2(ctx)? {
        for (what, flags) in [("SET", SET), ("PROBE SET", PROBE | SET), ("GET", GET)] {
            refused(ctx, &format!("{what} of PRECOPY_INFOv2"), 8, PRECOPY_INFO_V2 | flags, ABSENT)?;
        }
        ctx.note("PRECOPY_INFOv2 does not exist here");
        return Ok(());
    }
    accepted(ctx, "PROBE SET of PRECOPY_INFOv2", 8, PRECOPY_INFO_V2 | PROBE | SET)?;
    refused(ctx, "PROBE GET of PRECOPY_INFOv2", 8, PRECOPY_INFO_V2 | PROBE | GET, EINVAL)?;
    refused(ctx, "GET of PRECOPY_INFOv2", 16, PRECOPY_INFO_V2 | GET, EINVAL)?;
    refused(ctx, "PRECOPY_INFOv2 without an operation", 16, PRECOPY_INFO_V2, EINVAL)
}

fn info_v2_without_pre_copy(ctx: &mut Ctx) -> Checked {
    let expected = if ctx.kernel.has_precopy_info_v2() { EINVAL } else { ABSENT };
    for (what, flags) in [("PROBE", PROBE), ("PROBE SET", PROBE | SET), ("SET", SET)] {
        refused(ctx, &format!("{what} of PRECOPY_INFOv2"), 8, PRECOPY_INFO_V2 | flags, expected)?;
    }
    Ok(())
}

/// Input flags no kernel has a meaning for; echoed by drivers without the opt-in.
const ECHO: u32 = 0xdead_beef;

fn info_flags(ctx: &Ctx) -> Checked<u32> {
    let data = ctx.first.enter_session(State::PreCopy)?;
    let answer = raw::precopy_info(&data, 24, ECHO).map_err(|errno| super::check::name(Errno::from_raw(errno)));
    must("PRECOPY_INFO", answer).map(|answer| raw::u32_at(&answer, 4))
}

fn info_v2_opt_in(ctx: &mut Ctx) -> Checked {
    if !has_info_v2(ctx)? {
        return Err(super::check::skipped("this kernel has no PRECOPY_INFOv2 (it came with 7.1)"));
    }
    expect("PRECOPY_INFO flags before the opt-in are the caller's", info_flags(ctx)?, ECHO)?;
    accepted(ctx, "SET of PRECOPY_INFOv2", 8, PRECOPY_INFO_V2 | SET)?;
    for when in ["after the opt-in", "in the next session"] {
        let flags = info_flags(ctx)?;
        ensure(flags & !1 == 0, || format!("PRECOPY_INFO flags {when}: expected 0 or REINIT, found {flags:#x}"))?;
    }
    ctx.first.reset()?;
    ctx.first.close();
    ctx.first.open()?;
    expect("PRECOPY_INFO flags after close and open", info_flags(ctx)?, ECHO)
}
