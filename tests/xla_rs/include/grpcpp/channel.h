// Stand-in for the header of gRPC, which tensorflow-cpu does not ship: XLA's headers only name this class.
#ifndef TERNAX_TESTS_GRPCPP_CHANNEL_H_
#define TERNAX_TESTS_GRPCPP_CHANNEL_H_

namespace grpc {
class Channel;
}

#endif  // TERNAX_TESTS_GRPCPP_CHANNEL_H_
