// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The interleavings of the engine's hand-overs, by the model checker.
//!
//! ```sh
//! RUSTFLAGS="--cfg loom" cargo test -p savevm-core --lib --features sim engine::model
//! ```

use core::time::Duration;
use std::boxed::Box;
use std::io;
use std::time::Instant;
use std::vec;
use std::vec::Vec;

use loom::sync::{Arc, Mutex};
use loom::thread;
use stream_codec::frame::io::FrameWriter;
use stream_codec::frame::{Limits, Message};

use super::buffer::{Buffer, Pool};
use super::credit::Credit;
use super::hands::Hands;
use super::lane::{Lane, Outgoing};
use super::plan::Grant;
use super::scattered::{Chunk, Job, Scattered, Worth};
use super::task::{Gate, Mailbox, Task};
use super::window::{Window, Work};
use crate::digest::DigestSum;

/// Every interleaving with up to three preemptions: more of them find nothing new in practice, and take hours.
fn check(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// A chunk that says which it is.
fn chunk(pool: &Pool, number: u8) -> Buffer {
    let mut buffer = pool.try_take().unwrap();
    buffer.space()[0] = number;
    buffer.set_filled(1);
    buffer
}

/// Writes a chunk as the writer of the device: alone, and in order.
fn write(window: &Window, written: &Mutex<Vec<u8>>, buffer: &Buffer) {
    let mut device = written.try_lock().expect("one writer at a time");
    let number = buffer.filled()[0];
    assert_eq!(usize::from(number), device.len(), "in order");
    device.push(number);
    drop(device);
    window.written(Duration::ZERO);
    assert_eq!(window.step_back(), None);
}

/// Two receivers bring a device's chunks, its own thread helps: each is written once, in order, by one at a time, and
/// then the end is seen.
fn receivers_and_loader(is_quick: bool) {
    check(move || {
        let pool = Arc::new(Pool::new(1, 3));
        let window = Arc::new(Window::new(Grant::only(3)));
        if is_quick {
            window.assume_quick();
        }
        let written = Arc::new(Mutex::new(Vec::new()));
        let receive = |numbers: Vec<u8>| {
            let (pool, window, written) = (Arc::clone(&pool), Arc::clone(&window), Arc::clone(&written));
            thread::spawn(move || {
                for number in numbers {
                    if let Some(buffer) = window.put(number.into(), chunk(&pool, number)).unwrap() {
                        write(&window, &written, &buffer);
                    }
                }
            })
        };
        let other = receive(vec![1]);
        let first = {
            let (pool, window, written) = (Arc::clone(&pool), Arc::clone(&window), Arc::clone(&written));
            thread::spawn(move || {
                if let Some(buffer) = window.put(0, chunk(&pool, 0)).unwrap() {
                    write(&window, &written, &buffer);
                }
                window.end(2);
            })
        };
        loop {
            match window.next() {
                Work::Write(buffer) => write(&window, &written, &buffer),
                Work::End => break,
                Work::Closed => panic!("nobody closed it"),
            }
        }
        assert_eq!(*written.lock().unwrap(), [0, 1]);
        first.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn chunks_of_a_quick_device_are_written_once_and_in_order() {
    receivers_and_loader(true);
}

#[test]
fn chunks_of_a_slow_device_are_written_once_and_in_order() {
    receivers_and_loader(false);
}

/// The word that initial bytes are written goes out once for the last generation, never before they are, and never
/// behind that of a later one.
#[test]
fn initial_bytes_are_acknowledged_once_they_are_written_and_in_order() {
    check(|| {
        let pool = Arc::new(Pool::new(1, 1));
        let window = Arc::new(Window::new(Grant::only(1)));
        // What the device has, and what was told of it.
        let told = Arc::new(Mutex::new((0_u64, Vec::new())));
        let tell = |told: &Mutex<(u64, Vec<u32>)>, generation: u32| {
            let mut told = told.lock().unwrap();
            assert_eq!(told.0, 1, "told before it is written");
            assert!(told.1.last().is_none_or(|last| *last < generation), "told behind a later one");
            told.1.push(generation);
        };
        let receiver = {
            let (pool, window, told) = (Arc::clone(&pool), Arc::clone(&window), Arc::clone(&told));
            thread::spawn(move || {
                assert!(window.put(0, chunk(&pool, 0)).unwrap().is_none());
                for generation in [1, 2] {
                    if let Some(generation) = window.initial(generation, 1) {
                        tell(&told, generation);
                    }
                }
                window.end(1);
            })
        };
        while let Work::Write(_) = window.next() {
            told.lock().unwrap().0 += 1;
            if let Some(generation) = window.written(Duration::ZERO).initial {
                tell(&told, generation);
            }
            while let Some(generation) = window.step_back() {
                tell(&told, generation);
            }
        }
        receiver.join().unwrap();
        assert_eq!(told.lock().unwrap().1.last(), Some(&2), "the last one is told");
    });
}

/// Writes a chunk of memory, beside others, and sends the credit that is due.
fn write_memory(memory: &Scattered, written: &Mutex<Vec<u64>>, credits: &Mutex<Vec<u64>>, sequence: u64) {
    written.lock().unwrap().push(sequence);
    memory.written(sequence, Chunk { sum: DigestSum::new(1, 0), precopy_bytes: 0 }, Duration::ZERO);
    grant_memory(memory, written, credits);
}

fn grant_memory(memory: &Scattered, written: &Mutex<Vec<u64>>, credits: &Mutex<Vec<u64>>) {
    let sent = memory.grant(Worth::Any, Instant::now(), |frames| {
        let written = written.lock().unwrap().len();
        assert!(frames <= u64::try_from(written).unwrap() + 3, "a credit for what is not written");
        let mut credits = credits.try_lock().expect("one credit at a time");
        assert!(credits.last().is_none_or(|last| *last < frames), "credits rise");
        credits.push(frames);
        Ok::<(), ()>(())
    });
    assert!(sent.is_ok());
}

/// Two receivers bring the chunks of memory, its own thread helps where memory is slow: each is written once, credits go out one by one
/// and rise, and none goes out when the end was seen.
fn receivers_and_memory(is_slow: bool) {
    check(move || {
        let pool = Arc::new(Pool::new(1, 3));
        let memory = Arc::new(Scattered::new(Grant::only(3)));
        if is_slow {
            memory.assume_slow();
        }
        memory.first_grant();
        let (written, credits) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let receive = |number: u8, is_last: bool| {
            let (pool, memory) = (Arc::clone(&pool), Arc::clone(&memory));
            let (written, credits) = (Arc::clone(&written), Arc::clone(&credits));
            thread::spawn(move || {
                if memory.put(number.into(), chunk(&pool, number)).unwrap().is_some() {
                    write_memory(&memory, &written, &credits, number.into());
                }
                if is_last {
                    memory.end(2);
                }
            })
        };
        let receivers = [receive(1, false), receive(0, true)];
        loop {
            match memory.next() {
                Job::Write(sequence, buffer) => {
                    assert_eq!(u64::from(buffer.filled()[0]), sequence);
                    write_memory(&memory, &written, &credits, sequence);
                }
                Job::End(received) => {
                    assert_eq!(received.sum.bytes, 2);
                    break;
                }
                Job::Grant => grant_memory(&memory, &written, &credits),
                Job::Closed => panic!("nobody closed it"),
            }
        }
        let seen = credits.try_lock().expect("no credit is on its way when the end was seen").len();
        let mut numbers = written.lock().unwrap().clone();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1]);
        receivers.into_iter().for_each(|receiver| receiver.join().unwrap());
        assert_eq!(credits.lock().unwrap().len(), seen, "no credit follows the end");
    });
}

#[test]
fn chunks_of_memory_are_written_once_by_whoever_has_them() {
    receivers_and_memory(false);
}

#[test]
fn chunks_of_slow_memory_are_written_once() {
    receivers_and_memory(true);
}

/// A helper works only while the leader does, which leaves with nobody at work, whether the helper came or not; and the helper's thread
/// ends when nobody leads any more.
#[test]
fn helpers_work_while_they_are_led() {
    check(|| {
        let hands = Arc::new(Hands::default());
        let (at_work, is_led) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(false)));
        let helper = {
            let (hands, at_work, is_led) = (Arc::clone(&hands), Arc::clone(&at_work), Arc::clone(&is_led));
            thread::spawn(move || {
                hands.help(|| {
                    assert!(*is_led.lock().unwrap(), "nobody leads");
                    *at_work.lock().unwrap() += 1;
                    *at_work.lock().unwrap() -= 1;
                });
            })
        };
        for _ in 0..2 {
            *is_led.lock().unwrap() = true;
            hands.together(1, || ());
            assert_eq!(*at_work.lock().unwrap(), 0, "the leader leaves alone");
            *is_led.lock().unwrap() = false;
        }
        hands.close();
        helper.join().unwrap();
    });
}

#[test]
fn a_closed_window_lets_its_thread_go() {
    check(|| {
        let window = Arc::new(Window::new(Grant::only(1)));
        let loader = {
            let window = Arc::clone(&window);
            thread::spawn(move || assert!(matches!(window.next(), Work::Closed)))
        };
        window.close();
        loader.join().unwrap();
    });
}

#[test]
fn a_file_waits_for_room_and_gets_it() {
    check(|| {
        let pool = Arc::new(Pool::new(1, 2));
        let window = Arc::new(Window::new(Grant::only(1)));
        let reader = {
            let (pool, window) = (Arc::clone(&pool), Arc::clone(&window));
            thread::spawn(move || {
                for number in 0..2 {
                    assert!(window.wait_room(number.into()));
                    assert!(window.put(number.into(), chunk(&pool, number)).unwrap().is_none());
                }
                window.end(2);
            })
        };
        let mut numbers = Vec::new();
        while let Work::Write(buffer) = window.next() {
            numbers.push(buffer.filled()[0]);
            window.written(Duration::from_secs(1));
            assert_eq!(window.step_back(), None);
        }
        assert_eq!(numbers, [0, 1]);
        reader.join().unwrap();
    });
}

#[test]
fn whoever_waits_for_credit_gets_it_or_is_let_go() {
    check(|| {
        let credit = Arc::new(Credit::new(0, 8));
        let reader = {
            let credit = Arc::clone(&credit);
            thread::spawn(move || credit.wait(0) && credit.wait(1))
        };
        let closer = {
            let credit = Arc::clone(&credit);
            thread::spawn(move || credit.close())
        };
        credit.raise(1);
        credit.raise(2);
        closer.join().unwrap();
        let _either = reader.join().unwrap();
        assert!(!credit.wait(0), "closed is closed");
    });
}

#[test]
fn one_buffer_goes_round_and_a_closed_pool_lets_go() {
    check(|| {
        let pool = Arc::new(Pool::new(1, 1));
        let users: Vec<_> = (0..2)
            .map(|_| {
                let pool = Arc::clone(&pool);
                thread::spawn(move || pool.take().map(|buffer| pool.give(buffer)))
            })
            .collect();
        for user in users {
            assert!(user.join().unwrap().is_some());
        }
        assert_eq!(pool.peak_and_created(), (1, 1));
        let _held = pool.take();
        let waiter = {
            let pool = Arc::clone(&pool);
            thread::spawn(move || pool.take().is_none())
        };
        pool.close();
        assert!(waiter.join().unwrap());
    });
}

/// Counts what goes out.
struct Counting(Arc<Mutex<usize>>);

impl io::Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        *self.0.lock().unwrap() += 1;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type SharedLane = Arc<Lane<'static>>;

/// A channel, and how many pieces went out on it.
fn counting_lane() -> (Arc<Mutex<usize>>, SharedLane) {
    let out = Arc::new(Mutex::new(0));
    let writer: Box<dyn io::Write + Send> = Box::new(Counting(Arc::clone(&out)));
    (out, Arc::new(Lane::new(FrameWriter::new(writer, Limits::DEFAULT))))
}

/// The channel's own thread.
fn channel_thread(lane: &SharedLane) -> thread::JoinHandle<()> {
    let lane = Arc::clone(lane);
    thread::spawn(move || lane.run(|| None).unwrap())
}

#[test]
fn what_is_sent_and_what_is_queued_all_goes_out() {
    check(|| {
        let (out, lane) = counting_lane();
        let sender = channel_thread(&lane);
        let direct = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || lane.send(Outgoing::Plain(Message::ChannelEnd), None).unwrap())
        };
        lane.post(Outgoing::Plain(Message::Switchover), None);
        direct.join().unwrap();
        lane.drain();
        sender.join().unwrap();
        assert_eq!(*out.lock().unwrap(), 2);
    });
}

#[test]
fn who_waits_for_a_turn_gets_one_beside_what_is_queued() {
    check(|| {
        let (out, lane) = counting_lane();
        let sender = channel_thread(&lane);
        let other = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || lane.send_in_turn(Outgoing::Plain(Message::ChannelEnd), None).unwrap())
        };
        lane.post(Outgoing::Plain(Message::Switchover), None);
        lane.send_in_turn(Outgoing::Plain(Message::ChannelEnd), None).unwrap();
        other.join().unwrap();
        lane.drain();
        sender.join().unwrap();
        assert_eq!(*out.lock().unwrap(), 3);
    });
}

#[test]
fn nobody_waits_for_a_turn_that_does_not_come() {
    check(|| {
        let (out, lane) = counting_lane();
        let in_line = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || lane.send_in_turn(Outgoing::Plain(Message::ChannelEnd), None).unwrap())
        };
        lane.post(Outgoing::Plain(Message::Switchover), None);
        lane.abandon(None);
        in_line.join().unwrap();
        assert!(*out.lock().unwrap() <= 1);
    });
}

#[test]
fn the_last_word_goes_out_whoever_is_sending() {
    check(|| {
        let (out, lane) = counting_lane();
        let sender = channel_thread(&lane);
        let direct = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || lane.send(Outgoing::Plain(Message::ChannelEnd), None).unwrap())
        };
        lane.abandon(Some(Outgoing::Plain(Message::Complete)));
        direct.join().unwrap();
        sender.join().unwrap();
        assert!((1..=2).contains(&*out.lock().unwrap()), "the last word, perhaps behind what was being sent");
    });
}

#[test]
fn nobody_is_left_at_a_mailbox_or_a_gate() {
    check(|| {
        let mailbox = Arc::new(Mailbox::default());
        let gate = Arc::new(Gate::default());
        let worker = {
            let (mailbox, gate) = (Arc::clone(&mailbox), Arc::clone(&gate));
            thread::spawn(move || {
                let went = gate.wait();
                let mut tasks = 0;
                while mailbox.take().is_some() {
                    tasks += 1;
                }
                (went, tasks)
            })
        };
        gate.open();
        mailbox.put(Task::Describe);
        gate.close();
        mailbox.close();
        let (went, tasks) = worker.join().unwrap();
        assert!(went && tasks <= 1);
    });
}
