# SPDX-License-Identifier: GPL-2.0-or-later
#
# Device models of the lab's QEMUs: those that the lab itself, our tests and the
# chosen tests of QEMU's own use. Stock and patched QEMU must have the same.

# Machines
CONFIG_I440FX=y
CONFIG_Q35=y
CONFIG_HPET=y
CONFIG_FDC_ISA=y
CONFIG_VGA_PCI=y
CONFIG_PVPANIC_ISA=y
CONFIG_PVPANIC_PCI=y

# Slots for hot-plug
CONFIG_PCI_BRIDGE=y
CONFIG_PCIE_PORT=y
CONFIG_PCIE_PCI_BRIDGE=y
CONFIG_XIO3130=y
CONFIG_I82801B11=y

# NIC models
CONFIG_VIRTIO_NET=y
CONFIG_E1000_PCI=y
CONFIG_E1000E_PCI_EXPRESS=y
CONFIG_IGB_PCI_EXPRESS=y
CONFIG_NE2000_PCI=y
CONFIG_PCNET_PCI=y
CONFIG_RTL8139_PCI=y
CONFIG_TULIP=y
CONFIG_VMXNET3_PCI=y

# Of lab/run: disk, shared directories, console, entropy. QEMU's tests hot-plug
# an input device.
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BLK=y
CONFIG_VIRTIO_9P=y
CONFIG_VIRTIO_SERIAL=y
CONFIG_VIRTIO_RNG=y
CONFIG_VIRTIO_BALLOON=y
CONFIG_VIRTIO_INPUT=y
