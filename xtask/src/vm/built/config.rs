// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

//! The kernel's configuration: nothing but these options and what they depend on.

/// Everything that is on. All other options are off where a kernel can do without.
pub(super) const OPTIONS: [&str; 60] = [
    // A 64-bit machine with several processors.
    "64BIT",
    "SMP",
    // Small, with reports that can be read. EXPERT is what allows to leave things out.
    "EXPERT",
    "PRINTK",
    "BUG",
    "DEBUG_BUGVERBOSE",
    "KALLSYMS",
    "KERNEL_GZIP",
    "UNWINDER_GUESS",
    // What a statically linked program and busybox need.
    "NO_HZ_IDLE",
    "HIGH_RES_TIMERS",
    "POSIX_TIMERS",
    "MULTIUSER",
    "BINFMT_ELF",
    "BINFMT_SCRIPT",
    "BLK_DEV_INITRD",
    "FUTEX",
    "EPOLL",
    "SIGNALFD",
    "TIMERFD",
    "EVENTFD",
    "SHMEM",
    "ADVISE_SYSCALLS",
    "FILE_LOCKING",
    "MEMBARRIER",
    "RSEQ",
    // The emulated machine: serial ports, and ACPI to switch it off.
    "PCI",
    "PCI_MSI",
    "ACPI",
    "TTY",
    "SERIAL_8250",
    "SERIAL_8250_CONSOLE",
    "SERIAL_8250_PNP",
    // The file systems and the loopback of the initial file system's script.
    "PROC_FS",
    "SYSCTL",
    "SYSFS",
    "TMPFS",
    "DEVTMPFS",
    "NET",
    "UNIX",
    "INET",
    // The subject. The driver of a real IOMMU, which is not there, brings what dirty tracking needs.
    "IOMMU_SUPPORT",
    "INTEL_IOMMU",
    "IOMMUFD",
    "VFIO",
    "VFIO_GROUP",
    "VFIO_CONTAINER",
    "VFIO_DEVICE_CDEV",
    "VFIO_MDEV",
    // mtty, and the names of states in debugfs.
    "DEBUG_KERNEL",
    "DEBUG_FS",
    "VFIO_DEBUGFS",
    "SAMPLES",
    "SAMPLE_VFIO_MDEV_MTTY",
    // The simulated IOMMU, and what it needs.
    "FAULT_INJECTION",
    "RUNTIME_TESTING_MENU",
    "GENERIC_PT",
    "IOMMU_PT",
    "IOMMU_PT_AMDV1",
    "IOMMUFD_TEST",
];

/// The options as the kernel's makefiles take them.
pub(super) fn fragment() -> String {
    OPTIONS.iter().map(|option| format!("CONFIG_{option}=y\n")).collect()
}

/// Options that a configuration does not have: the kernel has renamed them, or what they depend on.
pub(super) fn missing(config: &str) -> Vec<&'static str> {
    let has = |option: &str| {
        config.lines().any(|line| {
            line.strip_prefix("CONFIG_").and_then(|line| line.strip_prefix(option)).is_some_and(|rest| rest == "=y")
        })
    };
    OPTIONS.into_iter().filter(|option| !has(option)).collect()
}

#[cfg(test)]
mod test {
    use super::*;

    #[test]
    fn what_a_configuration_lacks_is_named() {
        assert_eq!(missing(&fragment()), [""; 0]);
        let without = fragment().replace("CONFIG_IOMMUFD_TEST=y", "# CONFIG_IOMMUFD_TEST is not set");
        assert_eq!(missing(&without), ["IOMMUFD_TEST"]);
        // A longer name is another option.
        assert_eq!(missing(&fragment().replace("CONFIG_VFIO=y\n", "")), ["VFIO"]);
    }

    #[test]
    fn no_option_is_there_twice() {
        let mut options = OPTIONS.to_vec();
        options.sort_unstable();
        options.dedup();
        assert_eq!(options.len(), OPTIONS.len());
    }
}
