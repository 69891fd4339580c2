// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! DMA logging: the checks the kernel makes before it asks the driver, and what the driver promises.

use nix::errno::Errno;

use super::check::{Checked, expect, must, name, refuse, skipped};
use super::context::Ctx;
use super::raw::{self, GET, PROBE, SET};
use super::{Need, Test, test};
use crate::hw_test::event::Group;

const PAGE: u64 = 4096;
const START: u32 = 6;
const STOP: u32 = 7;
const REPORT: u32 = 8;

/// The tests of this group.
pub(super) const TESTS: &[Test] = &[
    test(Group::DmaLogging, "the three features come together", &[], together),
    test(Group::DmaLogging, "START refuses what it must", &[Need::DmaLogging], refused_starts),
    test(Group::DmaLogging, "START, STOP, STOP", &[Need::DmaLogging], start_stop),
    test(Group::DmaLogging, "a second START", &[Need::DmaLogging], second_start),
    test(Group::DmaLogging, "REPORT refuses what it must", &[Need::DmaLogging], refused_reports),
    test(Group::DmaLogging, "REPORT of an idle device is clean", &[Need::DmaLogging], clean_report),
    test(Group::DmaLogging, "the log does not depend on the migration state", &[Need::DmaLogging], independent),
];

/// Whether the device answers a PROBE of START.
pub(super) fn is_offered(ctx: &Ctx) -> Checked<bool> {
    Ok(raw::feature(ctx.first.device()?, 8, START | PROBE | SET, &mut [0; 64]).is_ok())
}

fn together(ctx: &mut Ctx) -> Checked {
    let offered = is_offered(ctx)?;
    for (feature, operation) in [(START, SET), (STOP, SET), (REPORT, GET)] {
        let wrong = if operation == SET { GET } else { SET };
        let device = ctx.first.device()?;
        let right = raw::feature(device, 8, feature | PROBE | operation, &mut [0; 64]);
        expect(&format!("PROBE of feature {feature} succeeds"), right.is_ok(), offered)?;
        let errno = if offered { Errno::EINVAL } else { Errno::ENOTTY };
        let refused = raw::feature(device, 8, feature | PROBE | wrong, &mut [0; 64]);
        refuse(&format!("PROBE of feature {feature} with the wrong operation"), refused, &[errno])?;
    }
    ctx.note(if offered { "offered" } else { "not offered" });
    Ok(())
}

fn start(ctx: &Ctx, page_size: u64, ranges: &[[u64; 2]]) -> Checked<Result<u64, i32>> {
    Ok(raw::dma_logging_start(ctx.first.device()?, page_size, ranges))
}

fn started(ctx: &Ctx) -> Checked<u64> {
    let answer = start(ctx, PAGE, &[[0, 16 * PAGE], [1 << 30, PAGE]])?;
    must("START", answer.map_err(|errno| name(Errno::from_raw(errno))))
}

fn stop(ctx: &Ctx) -> Checked {
    must("STOP", raw::dma_logging_stop(ctx.first.device()?).map_err(|errno| name(Errno::from_raw(errno))))
}

fn refused_starts(ctx: &mut Ctx) -> Checked {
    let last_page = u64::MAX - (PAGE - 1);
    // The kernel takes one of its pages full of ranges; no page is larger than 64 KiB.
    let many: Vec<[u64; 2]> = (0..4097_u64).map(|index| [index.saturating_mul(2 * PAGE), PAGE]).collect();
    let cases: [(&str, &[[u64; 2]], Errno); 7] = [
        ("no ranges", &[], Errno::EINVAL),
        ("an unaligned iova", &[[1, PAGE]], Errno::EINVAL),
        ("an unaligned length", &[[0, PAGE - 1]], Errno::EINVAL),
        ("overlapping ranges", &[[0, 4 * PAGE], [3 * PAGE, PAGE]], Errno::EINVAL),
        ("a range beyond 2^64", &[[last_page, 2 * PAGE]], Errno::EOVERFLOW),
        ("a range that ends at 2^64", &[[last_page, PAGE]], Errno::EOVERFLOW),
        ("too many ranges", &many, Errno::E2BIG),
    ];
    for (what, ranges, errno) in cases {
        refuse(&format!("START with {what}"), start(ctx, PAGE, ranges)?, &[errno])?;
    }
    stop(ctx)
}

fn start_stop(ctx: &mut Ctx) -> Checked {
    let page_size = started(ctx)?;
    ctx.note(format!("the device chose a page size of {page_size} bytes"));
    stop(ctx)?;
    stop(ctx)
}

fn second_start(ctx: &mut Ctx) -> Checked {
    started(ctx)?;
    let again = start(ctx, PAGE, &[[0, PAGE]])?;
    stop(ctx)?;
    match ctx.first.profile.logging_starts_twice {
        Some(true) => must("second START", again.map_err(|errno| name(Errno::from_raw(errno)))).map(|_| ()),
        Some(false) => refuse("second START", again, &[Errno::EINVAL]).map(|_| ()),
        None => {
            ctx.note(if again.is_ok() { "accepted" } else { "refused" });
            Ok(())
        }
    }
}

/// Without CONFIG_IOMMUFD_DRIVER the core refuses every REPORT, although it can be probed.
fn report(ctx: &Ctx, iova: u64, length: u64, page_size: u64) -> Checked<Result<Vec<u64>, i32>> {
    let mut bitmap = vec![0; 4096];
    let answer = raw::dma_logging_report(ctx.first.device()?, iova, length, page_size, &mut bitmap);
    Ok(answer.map(|()| bitmap))
}

fn refused_reports(ctx: &mut Ctx) -> Checked {
    started(ctx)?;
    let last_page = u64::MAX - (PAGE - 1);
    let cases = [
        ("page size 2048", 0, PAGE, 2048, Errno::EINVAL),
        ("page size 12288", 0, 3 * PAGE, 3 * PAGE, Errno::EINVAL),
        ("a range beyond 2^64", last_page, 2 * PAGE, PAGE, Errno::EOVERFLOW),
        ("a range that ends at 2^64", last_page, PAGE, PAGE, Errno::EOVERFLOW),
    ];
    for (what, iova, length, page_size, errno) in cases {
        let answer = report(ctx, iova, length, page_size)?.map(|_| ());
        refuse(&format!("REPORT with {what}"), answer, &[errno, Errno::EOPNOTSUPP])?;
    }
    stop(ctx)
}

fn clean_report(ctx: &mut Ctx) -> Checked {
    ctx.first.reset()?;
    started(ctx)?;
    let answer = report(ctx, 0, 16 * PAGE, PAGE)?;
    stop(ctx)?;
    match answer {
        Ok(bitmap) => expect("dirty pages of an idle device", bitmap.iter().filter(|word| **word != 0).count(), 0),
        Err(errno) if Errno::from_raw(errno) == Errno::EOPNOTSUPP => {
            Err(skipped("REPORT is EOPNOTSUPP: this kernel was built without CONFIG_IOMMUFD_DRIVER"))
        }
        Err(errno) => refuse::<()>("REPORT", Err(errno), &[]).map(|_| ()),
    }
}

fn independent(ctx: &mut Ctx) -> Checked {
    for state in ctx.first.states() {
        let _data = ctx.first.enter(state)?;
        started(ctx)?;
        ctx.first.expect_state("after START", state)?;
        stop(ctx)?;
        ctx.first.expect_state("after STOP", state)?;
    }
    Ok(())
}
