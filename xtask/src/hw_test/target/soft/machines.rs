// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The machines that the `soft` target simulates: every model, on old and new kernels, alone and in sets.

use super::Machine;

pub(super) const MTTY: [&str; 2] = ["50f7f10c-0000-4000-8000-000000000001", "50f7f10c-0000-4000-8000-000000000002"];
const PCI: [&str; 2] = ["0000:a1:00.0", "0000:a2:00.0"];

/// In the order of the report.
pub(super) const MACHINES: &[Machine<'_>] = &[
    Machine {
        label: "mtty",
        kernel: "6.12.117",
        config: "kernel=6.12\n\
                 device a model=mtty address=50f7f10c-0000-4000-8000-000000000001\n\
                 device b model=mtty address=50f7f10c-0000-4000-8000-000000000002",
        devices: MTTY,
        args: &[],
    },
    Machine {
        label: "mtty, two ports, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=mtty ports=2 address=50f7f10c-0000-4000-8000-000000000001\n\
                 device b model=mtty ports=2 address=50f7f10c-0000-4000-8000-000000000002",
        devices: MTTY,
        args: &["--no-faults", "--access", "cdev"],
    },
    Machine {
        label: "plain, STOP_COPY only",
        kernel: "6.12.117",
        config: "kernel=6.12\n\
                 device a model=plain caps=1 stop=300KiB seed=1 dirty-log=absent address=0000:a1:00.0\n\
                 device b model=plain caps=1 stop=300KiB seed=2 dirty-log=absent address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults"],
    },
    Machine {
        label: "plain, P2P, slow",
        kernel: "6.12.117",
        config: "kernel=6.12-iommufd\n\
                 device a model=plain caps=3 stop=64KiB seed=1 transition-ms=1 write-ms-per-mib=20 address=0000:a1:00.0\n\
                 device b model=plain caps=3 stop=64KiB seed=2 transition-ms=1 write-ms-per-mib=20 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults"],
    },
    Machine {
        label: "plain, PRE_COPY, as the older drivers",
        kernel: "6.12.117",
        config: "kernel=6.12\n\
                 device a model=plain caps=5 drained=zero sticky-errors=no initial=20KiB dirty=30KiB stop=10KiB seed=1 address=0000:a1:00.0\n\
                 device b model=plain caps=5 drained=zero sticky-errors=no initial=20KiB dirty=30KiB stop=10KiB seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--profile", "plain-zero"],
    },
    Machine {
        label: "plain, everything, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=plain caps=7 initial=512KiB dirty=256KiB dirty-rate=20MiB/s dirty-total=1MiB stop=1MiB reinit-after=3 write-holds-state=yes seed=1 address=0000:a1:00.0\n\
                 device b model=plain caps=7 initial=512KiB dirty=256KiB dirty-rate=20MiB/s dirty-total=1MiB stop=1MiB reinit-after=3 write-holds-state=yes seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--access", "cdev"],
    },
    Machine {
        label: "plain with DMA",
        kernel: "6.12.117",
        config: "kernel=6.12-iommufd\n\
                 device a model=plain dma-rate=256KiB/s dma-peer=b dma-log-page=64KiB stop=64KiB seed=1 address=0000:a1:00.0\n\
                 device b model=plain dma-rate=256KiB/s dma-peer=a dma-log-page=64KiB stop=64KiB seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults"],
    },
    Machine {
        label: "plain with DMA, mediated",
        kernel: "6.12.117",
        config: "kernel=6.12\n\
                 device a model=plain caps=3 dma-rate=4MiB/s dma-write=4KiB dma-peer=b dirty-log=absent seed=1 address=50f7f10c-0000-4000-8000-000000000001\n\
                 device b model=plain caps=3 dma-rate=4MiB/s dma-write=4KiB dma-peer=a dirty-log=absent seed=2 address=50f7f10c-0000-4000-8000-000000000002",
        devices: MTTY,
        args: &["--no-faults"],
    },
    Machine {
        label: "plain with DMA, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=plain dma-rate=256KiB/s dma-peer=b stop=64KiB seed=1 address=0000:a1:00.0\n\
                 device b model=plain dma-rate=256KiB/s dma-peer=a stop=64KiB seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--access", "cdev"],
    },
    Machine {
        label: "hisi",
        kernel: "6.12.117",
        config: "kernel=6.12\n\
                 device a model=hisi accelerator=sec isolation=1 seed=1 address=0000:a1:00.0\n\
                 device b model=hisi accelerator=sec isolation=1 seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--profile", "hisi-soft"],
    },
    Machine {
        label: "hisi, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=hisi accelerator=hpre seed=1 address=0000:a1:00.0\n\
                 device b model=hisi accelerator=hpre seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--access", "cdev", "--profile", "hisi-soft"],
    },
    Machine {
        label: "hisi without guest driver",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=hisi ready=no address=0000:a1:00.0\n\
                 device b model=hisi ready=no address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--profile", "hisi-not-ready"],
    },
    Machine {
        label: "mlx5",
        kernel: "6.12.117",
        config: "kernel=6.12-iommufd\n\
                 device a model=mlx5 initial=200KiB dirty=100KiB stop=64KiB save-ms=1 seed=1 address=0000:a1:00.0\n\
                 device b model=mlx5 initial=200KiB dirty=100KiB stop=64KiB save-ms=1 seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--profile", "mlx5-soft"],
    },
    Machine {
        label: "mlx5 in chunks, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=mlx5 initial=512KiB dirty=256KiB dirty-rate=20MiB/s dirty-total=1MiB stop=1MiB chunk=128KiB reinit-after=3 seed=1 address=0000:a1:00.0\n\
                 device b model=mlx5 initial=512KiB dirty=256KiB dirty-rate=20MiB/s dirty-total=1MiB stop=1MiB chunk=128KiB reinit-after=3 seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--access", "cdev", "--profile", "mlx5-soft"],
    },
    Machine {
        label: "mlx5, pre-copy fails",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=mlx5 initial=64KiB stop=64KiB precopy-error=1 seed=1 address=0000:a1:00.0\n\
                 device b model=mlx5 initial=64KiB stop=64KiB precopy-error=1 seed=2 address=0000:a2:00.0",
        devices: PCI,
        args: &["--no-faults", "--profile", "mlx5-soft"],
    },
    Machine {
        label: "a set of two: hisi, mlx5",
        kernel: "6.12.117",
        config: "kernel=6.12\n\
                 device a model=hisi accelerator=zip seed=1 address=0000:a1:00.0\n\
                 device b model=hisi accelerator=zip seed=2 address=0000:a2:00.0\n\
                 device c model=mlx5 initial=200KiB dirty=100KiB stop=64KiB save-ms=1 seed=3 address=0000:a3:00.0\n\
                 device d model=mlx5 initial=200KiB dirty=100KiB stop=64KiB save-ms=1 seed=4 address=0000:a4:00.0",
        devices: PCI,
        args: &[
            "--migrations-only",
            "--faults-at",
            "stop-copy",
            "--profile",
            "hisi-soft",
            "--pair",
            "0000:a3:00.0=0000:a4:00.0=mlx5-soft",
        ],
    },
    Machine {
        label: "a set of two: mlx5, plain with STOP_COPY only, by cdev",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=mlx5 initial=300KiB dirty=100KiB stop=256KiB chunk=64KiB reinit-after=2 seed=1 address=0000:a1:00.0\n\
                 device b model=mlx5 initial=300KiB dirty=100KiB stop=256KiB chunk=64KiB reinit-after=2 seed=2 address=0000:a2:00.0\n\
                 device c model=plain caps=1 stop=300KiB seed=3 dirty-log=absent address=0000:a3:00.0\n\
                 device d model=plain caps=1 stop=300KiB seed=4 dirty-log=absent address=0000:a4:00.0",
        devices: PCI,
        args: &[
            "--migrations-only",
            "--no-faults",
            "--access",
            "cdev",
            "--profile",
            "mlx5-soft",
            "--pair",
            "0000:a3:00.0=0000:a4:00.0",
        ],
    },
    Machine {
        label: "a set of four, on two channels",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=plain caps=7 initial=200KiB dirty=100KiB stop=300KiB seed=1 address=0000:a1:00.0\n\
                 device b model=plain caps=7 initial=200KiB dirty=100KiB stop=300KiB seed=2 address=0000:a2:00.0\n\
                 device c model=plain caps=7 initial=64KiB stop=64KiB seed=3 address=0000:a3:00.0\n\
                 device d model=plain caps=7 initial=64KiB stop=64KiB seed=4 address=0000:a4:00.0\n\
                 device e model=plain caps=3 stop=64KiB seed=5 address=0000:a5:00.0\n\
                 device f model=plain caps=3 stop=64KiB seed=6 address=0000:a6:00.0\n\
                 device g model=mlx5 initial=200KiB dirty=100KiB stop=64KiB seed=7 address=0000:a7:00.0\n\
                 device h model=mlx5 initial=200KiB dirty=100KiB stop=64KiB seed=8 address=0000:a8:00.0",
        devices: PCI,
        args: &[
            "--migrations-only",
            "--faults-over",
            "2",
            "--pair",
            "0000:a3:00.0=0000:a4:00.0",
            "--pair",
            "0000:a5:00.0=0000:a6:00.0",
            "--pair",
            "0000:a7:00.0=0000:a8:00.0=mlx5-soft",
        ],
    },
    Machine {
        label: "a set of eight, of all models",
        kernel: "7.3.4",
        config: "kernel=7.3\n\
                 device a model=hisi accelerator=sec isolation=1 seed=1 address=0000:a1:00.0\n\
                 device b model=hisi accelerator=sec isolation=1 seed=2 address=0000:a2:00.0\n\
                 device c model=mlx5 initial=200KiB dirty=100KiB stop=64KiB save-ms=1 seed=3 address=0000:a3:00.0\n\
                 device d model=mlx5 initial=200KiB dirty=100KiB stop=64KiB save-ms=1 seed=4 address=0000:a4:00.0\n\
                 device e model=plain caps=7 initial=100KiB dirty=50KiB stop=200KiB seed=5 address=0000:a5:00.0\n\
                 device f model=plain caps=7 initial=100KiB dirty=50KiB stop=200KiB seed=6 address=0000:a6:00.0\n\
                 device g model=mtty ports=2 address=50f7f10c-0000-4000-8000-000000000001\n\
                 device h model=mtty ports=2 address=50f7f10c-0000-4000-8000-000000000002\n\
                 device i model=mlx5 stop=256KiB full=512KiB initial=64KiB chunk=64KiB precopy-error=1 seed=9 address=0000:a9:00.0\n\
                 device j model=mlx5 stop=256KiB full=512KiB initial=64KiB chunk=64KiB precopy-error=1 seed=10 address=0000:aa:00.0\n\
                 device k model=plain caps=3 stop=64KiB write-ms-per-mib=20 seed=11 address=0000:ab:00.0\n\
                 device l model=plain caps=3 stop=64KiB write-ms-per-mib=20 seed=12 address=0000:ac:00.0\n\
                 device m model=hisi ready=no seed=13 address=0000:ad:00.0\n\
                 device n model=hisi ready=no seed=14 address=0000:ae:00.0\n\
                 device o model=plain caps=5 drained=zero sticky-errors=no initial=20KiB stop=10KiB seed=15 address=0000:af:00.0\n\
                 device p model=plain caps=5 drained=zero sticky-errors=no initial=20KiB stop=10KiB seed=16 address=0000:b0:00.0",
        devices: PCI,
        args: &[
            "--migrations-only",
            "--faults-at",
            "switchover",
            "--faults-at",
            "stop-copy",
            "--faults-at",
            "commit",
            "--profile",
            "hisi-soft",
            "--pair",
            "0000:a3:00.0=0000:a4:00.0=mlx5-soft",
            "--pair",
            "0000:a5:00.0=0000:a6:00.0",
            "--pair",
            "50f7f10c-0000-4000-8000-000000000001=50f7f10c-0000-4000-8000-000000000002",
            "--pair",
            "0000:a9:00.0=0000:aa:00.0=mlx5-soft",
            "--pair",
            "0000:ab:00.0=0000:ac:00.0",
            "--pair",
            "0000:ad:00.0=0000:ae:00.0=hisi-not-ready",
            "--pair",
            "0000:af:00.0=0000:b0:00.0=plain-zero",
        ],
    },
];

/// Small, so that a migration takes no longer than its processes' start; one of each capability set.
const SMALL_FOUR: &str = "kernel=7.3\n\
     device a model=plain caps=7 initial=16KiB dirty=8KiB stop=64KiB seed=1 address=0000:a1:00.0\n\
     device b model=plain caps=7 initial=16KiB dirty=8KiB stop=64KiB seed=2 address=0000:a2:00.0\n\
     device c model=plain caps=5 initial=64KiB dirty=8KiB stop=16KiB seed=3 address=0000:a3:00.0\n\
     device d model=plain caps=5 initial=64KiB dirty=8KiB stop=16KiB seed=4 address=0000:a4:00.0\n\
     device e model=plain caps=3 initial=8KiB dirty=8KiB stop=64KiB seed=5 address=0000:a5:00.0\n\
     device f model=plain caps=3 initial=8KiB dirty=8KiB stop=64KiB seed=6 address=0000:a6:00.0\n\
     device g model=plain caps=1 initial=8KiB dirty=8KiB stop=64KiB dirty-log=absent seed=7 address=0000:a7:00.0\n\
     device h model=plain caps=1 initial=8KiB dirty=8KiB stop=64KiB dirty-log=absent seed=8 address=0000:a8:00.0";

const fn sweep<'a>(label: &'a str, args: &'a [&'static str]) -> Machine<'a> {
    Machine { label, kernel: "7.3.4", config: SMALL_FOUR, devices: PCI, args }
}

/// A sample of the system calls, another one for each way to fail.
pub(super) const SWEEP: Machine<'_> = sweep(
    "every twentieth system call fails",
    &[
        "--sweep-every",
        "20",
        "--pair",
        "0000:a3:00.0=0000:a4:00.0",
        "--pair",
        "0000:a5:00.0=0000:a6:00.0",
        "--pair",
        "0000:a7:00.0=0000:a8:00.0",
    ],
);

/// All of them.
pub(super) const SWEEP_FULL: Machine<'_> = sweep(
    "every system call fails",
    &[
        "--sweep-every",
        "1",
        "--pair",
        "0000:a3:00.0=0000:a4:00.0",
        "--pair",
        "0000:a5:00.0=0000:a6:00.0",
        "--pair",
        "0000:a7:00.0=0000:a8:00.0",
    ],
);

/// Four devices that take a while to load, and a limit of memory.
pub(super) const LARGE: Machine<'_> = Machine {
    label: "4 devices of 64 MiB in little memory",
    kernel: "7.3.4",
    config: "kernel=7.3\n\
             device a model=plain caps=7 initial=1MiB dirty=1MiB stop=64MiB write-ms-per-mib=8 seed=1 address=0000:a1:00.0\n\
             device b model=plain caps=7 initial=1MiB dirty=1MiB stop=64MiB write-ms-per-mib=8 seed=2 address=0000:a2:00.0\n\
             device c model=plain caps=7 initial=1MiB dirty=1MiB stop=64MiB write-ms-per-mib=8 seed=3 address=0000:a3:00.0\n\
             device d model=plain caps=7 initial=1MiB dirty=1MiB stop=64MiB write-ms-per-mib=8 seed=4 address=0000:a4:00.0\n\
             device e model=plain caps=7 initial=1MiB dirty=1MiB stop=64MiB write-ms-per-mib=8 seed=5 address=0000:a5:00.0\n\
             device f model=plain caps=7 initial=1MiB dirty=1MiB stop=64MiB write-ms-per-mib=8 seed=6 address=0000:a6:00.0\n\
             device g model=plain caps=7 initial=1MiB dirty=1MiB stop=64MiB write-ms-per-mib=8 seed=7 address=0000:a7:00.0\n\
             device h model=plain caps=7 initial=1MiB dirty=1MiB stop=64MiB write-ms-per-mib=8 seed=8 address=0000:a8:00.0",
    devices: PCI,
    args: LARGE_ARGS,
};

/// The same with devices as large as those that are worth it.
pub(super) const LARGE_FULL: Machine<'_> = Machine {
    label: "4 devices of 1 GiB in little memory",
    kernel: "7.3.4",
    config: "kernel=7.3\n\
             device a model=plain caps=7 initial=1MiB dirty=1MiB stop=1GiB write-ms-per-mib=4 seed=1 address=0000:a1:00.0\n\
             device b model=plain caps=7 initial=1MiB dirty=1MiB stop=1GiB write-ms-per-mib=4 seed=2 address=0000:a2:00.0\n\
             device c model=plain caps=7 initial=1MiB dirty=1MiB stop=1GiB write-ms-per-mib=4 seed=3 address=0000:a3:00.0\n\
             device d model=plain caps=7 initial=1MiB dirty=1MiB stop=1GiB write-ms-per-mib=4 seed=4 address=0000:a4:00.0\n\
             device e model=plain caps=7 initial=1MiB dirty=1MiB stop=1GiB write-ms-per-mib=4 seed=5 address=0000:a5:00.0\n\
             device f model=plain caps=7 initial=1MiB dirty=1MiB stop=1GiB write-ms-per-mib=4 seed=6 address=0000:a6:00.0\n\
             device g model=plain caps=7 initial=1MiB dirty=1MiB stop=1GiB write-ms-per-mib=4 seed=7 address=0000:a7:00.0\n\
             device h model=plain caps=7 initial=1MiB dirty=1MiB stop=1GiB write-ms-per-mib=4 seed=8 address=0000:a8:00.0",
    devices: PCI,
    args: LARGE_ARGS,
};

const LARGE_ARGS: &[&str] = &[
    "--in-little-memory",
    "--pair",
    "0000:a3:00.0=0000:a4:00.0",
    "--pair",
    "0000:a5:00.0=0000:a6:00.0",
    "--pair",
    "0000:a7:00.0=0000:a8:00.0",
];
