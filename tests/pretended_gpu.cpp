// Two pretended CUDA devices for a torch that is built for CPUs alone: what the autograd engine and
// the checks of devices ask for. Numbers are computed elsewhere (pretended_gpu.py). It must be
// loaded before torch first asks for CUDA.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

using namespace c10;
using at::CUDAHooksRegistry;
using at::RegistererCUDAHooksRegistry;

struct Guard final : impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device device) const override {
    Device before = getDevice();
    current() = device.index();
    return before;
  }
  Device getDevice() const override { return Device(DeviceType::CUDA, current()); }
  void setDevice(Device device) const override { current() = device.index(); }
  void uncheckedSetDevice(Device device) const noexcept override { current() = device.index(); }
  Stream getStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
  Stream getNewStream(Device device, int) const override { return getStream(device); }
  Stream exchangeStream(Stream stream) const override { return stream; }
  DeviceIndex deviceCount() const noexcept override { return 2; }
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  static DeviceIndex& current() {
    static thread_local DeviceIndex index = 0;
    return index;
  }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool isBuilt() const override { return true; }
  bool hasCUDA() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 2; }
  DeviceIndex getCurrentDevice() const override { return Guard::current(); }
  void setCurrentDevice(DeviceIndex index) const override { Guard::current() = index; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace
