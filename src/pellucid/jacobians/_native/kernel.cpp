// Jacobians of piecewise-linear networks: the reverse pass of K cotangents at once, over active positions only.
//
// A program (see program.py) lists *operations* in reverse order: the first holds the cotangents of the outputs, the
// last ones write the Jacobian. The cotangents of the value that an operation returned are its *slot*: a compressed
// list of rows, sorted by position, each with a channel and K values. An operation passes them on to its inputs along
// *edges*. On its way an edge crosses elementwise steps and poolings, which send each element to one element below with
// a factor, or drop it: a ReLU that is off, a value that lost its max-pool.
//
// This is the same for all K cotangents of an image. So the structure (which rows exist, and where each element of an
// edge arrives) is computed once per image, from masks alone; then the values follow, in blocks of cotangents that fit
// into registers. The order of every sum depends on its own image only, not on the images next to it.
//
// Elements of a value are numbered per image, in row-major order of the tensor. A slot's element e has channel c and
// position p with e = c * channel_step + p * position_step.

#include <stdint.h>
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#ifdef CHECKED
#define CHECK(condition) \
    ((condition) ? (void)0 : throw std::out_of_range("line " + std::to_string(__LINE__) + ": " #condition))
#else
#define CHECK(condition) ((void)0)
#endif
#define INLINE inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))
#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif
namespace {
constexpr int BLOCK = 9;                     // weights that `scatter` applies to a row at once, with sums in registers
constexpr int MOST_COTANGENTS = 12;          // at a time: their sums, with a vector each, fit into 16 registers
constexpr int WIDEST = 16;                   // cotangents read as one vector, beyond the end of a row if need be
constexpr int FEW = 6;                       // most lanes of a panel that are summed one by one
constexpr int64_t GROUP_BYTES = 12'000'000;  // from which a group takes no further image: what fits into the caches
constexpr int64_t BAND_BYTES = 4'000'000;    // of the sums that `scatter` keeps at once, or one row of the image
static_assert(MOST_COTANGENTS <= WIDEST);
enum StepKind { KEEP_POSITIVE, MULTIPLY, POOL, TABLE };
enum OperationKind { IDENTITY, GATHER, SCATTER, POSITIONS };

// A view of memory. The checked build asserts every index.
template <class T> struct View {
    T* data = nullptr;
    int64_t size = 0;
    T& operator[](int64_t index) const { return CHECK(index >= 0 && index < size), data[index]; }
    View part(int64_t start, int64_t count) const {
        return CHECK(start >= 0 && count >= 0 && start + count <= size), View{data + start, count};
    }
};

// A vector whose indices the checked build asserts, too.
template <class T> struct Array : std::vector<T> {
    using std::vector<T>::vector;
    View<T> all() { return {this->data(), length()}; }
    View<const T> all() const { return {this->data(), length()}; }
    int64_t length() const { return static_cast<int64_t>(this->size()); }
    T& operator[](int64_t index) { return all()[index]; }
    const T& operator[](int64_t index) const { return all()[index]; }
};

// Reads the program word by word; addresses are words, too.
struct Reader {
    View<const int64_t> words;
    int64_t place = 0;
    int64_t next() { return words[place++]; }
    template <class Word> void read(Word& target) { target = next(); }
    template <class T> void read(View<const T>& target) { target = {reinterpret_cast<const T*>(next()), next()}; }
    template <class... Targets> void into(Targets&... targets) { (read(targets), ...); }
};

// A spatial axis of a convolution. For every place on it, the runs of neighboring places on the other side that a tap
// reaches: places first … last, each with the tap `sum` - place. Along an axis without strides all taps form one run.
struct Axis {
    View<const int32_t> starts, first, last, sum;
    // Call `act` with each tap that reaches a place on the other side, and that place.
    template <class Act> INLINE void each(int64_t place, Act act) const {
        for (int32_t n = starts[place]; n < starts[place + 1]; ++n)
            for (int32_t at = first[n]; at <= last[n]; ++at) act(sum[n] - at, at);
    }
};

// A program, which runs on a group of images at a time, and for each on a block of cotangents at a time.
template <class T> struct Runner {
    static constexpr int64_t LANES = VECTOR_BYTES / sizeof(T);
    struct Step {
        int64_t kind, image_step, outer, inner;  // positions of a channel above and below a pooling
        View<const T> values;
        View<const int64_t> winners;
        View<const int32_t> table;
    };
    struct Operation {
        int64_t kind, slot, channel_step, position_step;  // steps of the input, where the results of this pass arrive
        Array<int64_t> edges;
        int64_t groups, in_channels, out_channels, width, taps, kernel_width, in[2], out[2];  // height and width
        View<const T> weights, tail;
        View<const int32_t> order;           // input channels of the lanes
        Axis axes[2];                        // `gather`: from input to output; `scatter`: from output to input
        View<const int32_t> starts, places;  // sums over positions
        int64_t element(int64_t channel, int64_t place) const { return channel * channel_step + place * position_step; }
    };
    struct End {  // the lower end of an edge for one image: where each element arrives
        Array<int32_t> rows;  // -1: dropped
        Array<T> factors;     // empty: all 1
    };
    struct Edge {
        int64_t target, size;       // slot, or -1 for the input; number of elements at its upper end
        View<const int32_t> entry;  // identity: upper element by element of the slot; empty: the same
        Array<Step> steps;
        Array<End> images;  // at least those of the group
    };
    struct Rows {  // the rows of a slot for one image
        Array<int32_t> starts, channels;  // first row of each position, channel of each row
        Array<int32_t> offsets;           // for `gather`: row of the weights, less what depends on the tap
    };
    struct Slot {
        int64_t channels, positions, channel_step;
        bool is_merged;  // several contributions may arrive in one row
        Array<int64_t> arriving;
        Array<Rows> images;    // at least those of the group
        Array<T> values;       // of the rows of all images
        Array<int64_t> bases;  // by image: index of its first value
    };
    // Element `at` of an edge adds `factors[at]` times its K values to a row.
    struct Sink {
        View<const int32_t> rows;
        View<const T> factors;
        View<T> to;
        int64_t row_step, step;  // from row to row, and from cotangent to cotangent
        bool is_merged;
    };

    int64_t outputs, inputs, cotangent_step;
    bool is_input_merged;
    View<const int64_t> seeds;  // elements of the output that have a cotangent
    View<const T> cotangents;   // (image, output, seed); with a step of 0, all images share them
    Array<Slot> slots;
    Array<Edge> edges;
    Array<Operation> operations;
    int64_t first_image, images, lowest, width;  // of the current group and block of cotangents
    View<T> jacobian;                            // of the group
    Array<Array<T>> spare;
    Array<int32_t> arrived;
    Array<int64_t> targets;
    Array<T> sums;

    void run(int64_t first, int64_t last, T* output) {
        for (first_image = first; first_image < last; first_image += images, output += images * outputs * inputs) {
            int64_t bytes = 0;
            for (images = 0; first_image + images < last && bytes < GROUP_BYTES; ++images) bytes += build(images);
            jacobian = {output, images * outputs * inputs};
            const int64_t blocks = (outputs + MOST_COTANGENTS - 1) / MOST_COTANGENTS;
            for (int64_t block = 0; block < blocks; ++block) {
                lowest = outputs * block / blocks, width = outputs * (block + 1) / blocks - lowest;
                fill();
            }
        }
    }

    explicit Runner(Reader reader) {
        int64_t count;
        reader.into(outputs, inputs, is_input_merged, cotangent_step, count, seeds, cotangents);
        slots.resize(count);
        for (auto& slot : slots) reader.into(slot.channels, slot.positions, slot.channel_step, slot.is_merged);
        edges.resize(reader.next());
        for (auto& edge : edges) {
            reader.into(edge.target, edge.size, count, edge.entry);
            edge.steps.resize(count);
            for (auto& step : edge.steps) {
                reader.into(step.kind, step.image_step, step.outer, step.inner);
                if (step.kind == POOL) reader.into(step.winners);
                else if (step.kind == TABLE) reader.into(step.table);
                else reader.into(step.values);
            }
            if (edge.target >= 0) slots[edge.target].arriving.push_back(&edge - edges.data());
        }
        for (int64_t slot = 0; slot < slots.length(); ++slot) {
            auto& made = operations.emplace_back();
            made.slot = slot;
            reader.into(made.kind, count);
            made.edges.resize(count);
            for (auto& edge : made.edges) reader.into(edge);
            if (made.kind != IDENTITY) reader.into(made.channel_step, made.position_step, made.weights);
            if (made.kind == POSITIONS) reader.into(made.starts, made.places);
            if (made.kind != GATHER && made.kind != SCATTER) continue;
            reader.into(made.tail, made.order, made.groups, made.in_channels, made.out_channels, made.width, made.taps);
            reader.into(made.kernel_width, made.in[0], made.in[1], made.out[0], made.out[1]);
            for (auto& axis : made.axes) reader.into(axis.starts, axis.first, axis.last, axis.sum);
        }
    }

    // Compute the structure of one image; returns the bytes that its values take at most.
    int64_t build(int64_t image) {
        int64_t bytes = 0;
        for (auto& slot : slots) slot.images.resize(std::max(slot.images.length(), image + 1));
        for (auto& edge : edges) edge.images.resize(std::max(edge.images.length(), image + 1)), bytes += edge.size * 8;
        slots[0].images[image].channels.assign(seeds.data, seeds.data + seeds.size);
        slots[0].images[image].starts = {0, static_cast<int32_t>(seeds.size)};
        for (const auto& operation : operations) {
            auto& slot = slots[operation.slot].images[image];
            if (operation.slot) finish(slots[operation.slot], image);
            slot.offsets.resize(slot.channels.size());
            // A row in column x, with channel c, meets tap t in row (t * channels + c) of the weights. Within a run of
            // places t + x is constant, so that c - x * channels is all that differs.
            for (int64_t position = 0; operation.kind == GATHER && position + 1 < slot.starts.length(); ++position) {
                const int64_t shift = position % operation.out[1] * operation.out_channels;
                for (int32_t row = slot.starts[position]; row < slot.starts[position + 1]; ++row)
                    slot.offsets[row] = static_cast<int32_t>(slot.channels[row] - shift);
            }
            bytes += slot.channels.length() * sizeof(T) * MOST_COTANGENTS;
            for (const auto number : operation.edges) {
                const auto& edge = edges[number];
                auto& rows = edges[number].images[image].rows;
                if (operation.kind != IDENTITY) rows.resize(edge.size), std::iota(rows.begin(), rows.end(), 0);
                else rows = slot.channels;  // only those elements that have a row
                if (operation.kind == IDENTITY && edge.entry.size)
                    for (auto& row : rows) row = edge.entry[row];
                cross(edges[number], image, operation.kind != IDENTITY);
            }
        }
        return bytes;
    }

    // Follow elements of an edge through its route, to the elements below it and their factors.
    void cross(Edge& edge, int64_t image, bool is_ordered) {  // ordered: all elements of the edge, one by one
        const auto rows = edge.images[image].rows.all();
        auto& factors = edge.images[image].factors;
        factors.clear();
        for (const auto& step : edge.steps) {
            const int64_t base = (first_image + image) * step.image_step;
            const auto follow = [&](auto below) INLINE_LAMBDA {
                for (int64_t e = 0; e < rows.size; ++e)
                    if (rows[e] >= 0) rows[e] = below(e, rows[e]);
            };
            if (step.kind == KEEP_POSITIVE && is_ordered) {
                const auto mask = step.values.part(base, rows.size);
                for (int64_t e = 0; e < rows.size; ++e) rows[e] = mask[e] <= 0 ? -1 : rows[e];  // like torch, keeps NaN
            } else if (step.kind == KEEP_POSITIVE) {
                follow([&](int64_t, int32_t at) { return step.values[base + at] <= 0 ? -1 : at; });
            } else if (step.kind == TABLE) {
                follow([&](int64_t, int32_t at) { return step.table[at]; });
            } else if (step.kind == POOL) {
                int64_t plane = 0;
                follow([&](int64_t, int32_t at) {
                    const int64_t low = plane * step.outer, winner = step.winners[base + at];
                    if (at < low || at >= low + step.outer) plane = at / step.outer;  // rarely
                    // torch stores an index outside of the plane for a window that lies in the padding
                    const bool is_inside = winner >= 0 && winner < step.inner;
                    return is_inside ? static_cast<int32_t>(plane * step.inner + winner) : -1;
                });
            } else {
                if (factors.empty()) factors.assign(rows.size, T(1));
                follow([&](int64_t e, int32_t at) {
                    factors[e] *= step.values[base + at];
                    return factors[e] == 0 ? -1 : at;
                });
            }
            is_ordered = false;
        }
    }

    // Number the rows of a slot, by position and in the order in which elements arrive, and write that into the edges.
    void finish(Slot& slot, int64_t image) {
        View<int32_t> rows = edges[slot.arriving[0]].images[image].rows.all();
        if (slot.is_merged) {  // several elements may arrive at one: collect each once
            arrived.assign(slot.channels * slot.positions, -1);
            for (const auto edge : slot.arriving)
                for (const auto element : edges[edge].images[image].rows)
                    if (element >= 0) arrived[element] = element;
            rows = arrived.all();
        }
        auto &starts = slot.images[image].starts, &channels = slot.images[image].channels;
        // without branches, which a processor could not predict: dropped elements have an extra position and row; until
        // all rows are numbered, starts[position + 1] is the next row of a position
        starts.assign(slot.positions + 3, 0);
        each_place(slot, rows, [&](int64_t, int64_t position, int64_t) { ++starts[position + 2]; });
        for (int64_t position = 0; position < slot.positions; ++position) starts[position + 2] += starts[position + 1];
        channels.resize(starts[slot.positions + 1] + 1);
        each_place(slot, rows, [&](int64_t e, int64_t position, int64_t channel) {
            const bool is_kept = rows[e] >= 0;
            const int32_t row = starts[position + 1];
            starts[position + 1] += is_kept;
            channels[row] = static_cast<int32_t>(channel);
            rows[e] = is_kept ? row : -1;
        });
        channels.pop_back(), starts.resize(slot.positions + 1);
        if (!slot.is_merged) return;
        for (const auto edge : slot.arriving)
            for (auto& row : edges[edge].images[image].rows)
                if (row >= 0) row = arrived[row];
    }

    // Call `act` with each element, its position and its channel; a dropped one has the position after the last.
    template <class Act> void each_place(const Slot& slot, View<int32_t> rows, Act act) const {
        const auto positions = static_cast<int32_t>(slot.positions), channels = static_cast<int32_t>(slot.channels);
        int32_t channel = 0, low = 0;  // the elements of a channel, which mostly follow each other: no need to divide
        for (int64_t e = 0; e < rows.size; ++e) {
            const int32_t element = rows[e], kept = element < 0 ? low : element;
            if (positions == 1) act(e, element < 0, kept);
            else if (slot.channel_step == 1) act(e, element < 0 ? positions : kept / channels, kept % channels);
            else {
                if (kept < low || kept >= low + positions) channel = kept / positions, low = channel * positions;
                act(e, element < 0 ? positions : kept - low, channel);
            }
        }
    }

    // Compute one block of cotangents for the images of the group.
    void fill() {
        allocate(slots[0]);
        for (int64_t image = 0; image < images; ++image) {
            const auto rows = rows_of(slots[0], image), to = output_of(image);
            if (is_input_merged) std::fill_n(to.data, to.size, T(0));
            for (int64_t row = 0; row < seeds.size; ++row)
                for (int64_t k = 0; k < width; ++k)
                    rows[row * width + k] =
                        cotangents[(first_image + image) * cotangent_step + (lowest + k) * seeds.size + row];
        }
        for (const auto& operation : operations) {
            for (const auto edge : operation.edges)
                if (edges[edge].target >= 0) allocate(slots[edges[edge].target]);
            if (operation.kind == GATHER) gather(operation);
            for (int64_t image = 0; operation.kind != GATHER && image < images; ++image) {
                if (operation.kind != SCATTER) pass(operation, image);
                else if (width <= 4) scatter<4>(operation, image);
                else if (width <= 8) scatter<8>(operation, image);
                else scatter<WIDEST>(operation, image);
            }
            spare.emplace_back().swap(slots[operation.slot].values);
        }
    }

    View<T> output_of(int64_t image) { return jacobian.part((image * outputs + lowest) * inputs, width * inputs); }
    View<T> rows_of(Slot& slot, int64_t image) {
        return slot.values.all().part(slot.bases[image], slot.bases[image + 1] - slot.bases[image]);
    }

    // Reserve the rows of a slot for all images, in memory that an earlier slot has used: new pages cost time.
    void allocate(Slot& slot) {
        if (!slot.values.empty()) return;
        slot.bases.assign(1, 0);
        for (int64_t image = 0; image < images; ++image)
            slot.bases.push_back(slot.bases.back() + slot.images[image].channels.length() * width);
        const auto best = std::max_element(
            spare.begin(), spare.end(), [](auto& one, auto& other) { return one.capacity() < other.capacity(); });
        if (best != spare.end()) slot.values.swap(*best), spare.erase(best);
        if (slot.is_merged) slot.values.clear();  // so that all of it becomes zero
        slot.values.resize(slot.bases.back() + WIDEST);
    }

    Sink sink(int64_t number, int64_t image) {
        const auto& [rows, factors] = edges[number].images[image];
        const int64_t target = edges[number].target;
        if (target < 0) return {rows.all(), factors.all(), output_of(image), 1, inputs, is_input_merged};
        return {rows.all(), factors.all(), rows_of(slots[target], image), width, 1, slots[target].is_merged};
    }

    // Pass on `scale` times a row of cotangents, `step` values apart, to where element `at` of an edge arrives.
    INLINE void deposit(const Sink& sink, int64_t at, const T* from, int64_t step = 1, T scale = 1) const {
        const int64_t row = sink.rows[at], count = width;
        if (row < 0) return;
        if (sink.factors.size) scale *= sink.factors[at];
        T* to = sink.to.part(row * sink.row_step, (count - 1) * sink.step + 1).data;
        if (sink.is_merged)
            for (int64_t k = 0; k < count; ++k) to[k * sink.step] += scale * from[k * step];
        else
            for (int64_t k = 0; k < count; ++k) to[k * sink.step] = scale * from[k * step];
    }

    // Operations without weights of channels: each row goes on as it is, or to all positions of its window.
    void pass(const Operation& operation, int64_t image) {
        const auto rows = rows_of(slots[operation.slot], image);
        const auto& [starts, channels, offsets] = slots[operation.slot].images[image];
        for (const auto edge : operation.edges) {
            const auto to = sink(edge, image);
            for (int64_t row = 0; operation.kind == IDENTITY && row < to.rows.size; ++row)
                deposit(to, row, rows.part(row * width, width).data);
            for (int64_t position = 0; operation.kind == POSITIONS && position + 1 < starts.length(); ++position)
                for (int32_t row = starts[position]; row < starts[position + 1]; ++row)
                    for (int32_t n = operation.starts[position]; n < operation.starts[position + 1]; ++n)
                        deposit(to, operation.element(channels[row], operation.places[n]),
                                rows.part(row * width, width).data, 1, operation.weights[n]);
        }
    }

    // Convolutions with few input channels per group: vectorized over the cotangents, for bands of rows of the input.
    template <int PADDED> void scatter(const Operation& operation, int64_t image) {
        const int64_t channels = operation.in_channels * operation.groups, line = operation.in[1];
        const int64_t height = std::max<int64_t>(1, BAND_BYTES / (line * channels * PADDED * sizeof(T)));
        const auto to = sink(operation.edges[0], image);
        for (int64_t top = 0; top < operation.in[0]; top += height) {
            const int64_t low = top * line, high = std::min(top + height, operation.in[0]) * line;
            sum_band<PADDED>(operation, image, low, high);
            for (int64_t channel = 0; channel < channels; ++channel)
                for (int64_t place = low; place < high; ++place)
                    deposit(to, operation.element(channel, place),
                            sums.all().part(((place - low) * channels + channel) * PADDED, PADDED).data);
        }
    }

    // Compute `sums` (position, channel, cotangent) for the positions low … high - 1. Weights: (output channel, tap,
    // input channel), padded to whole blocks per output channel.
    template <int PADDED> void sum_band(const Operation& operation, int64_t image, int64_t low, int64_t high) {
        typedef T Vector __attribute__((vector_size(PADDED * sizeof(T)), aligned(sizeof(T)), may_alias));
        const auto& [starts, channels, offsets] = slots[operation.slot].images[image];
        const auto rows = slots[operation.slot].values.all();
        const int64_t base = slots[operation.slot].bases[image], padded = operation.width;
        const int64_t in = operation.in_channels, all = in * operation.groups;
        sums.assign((high - low) * all * PADDED, T(0));
        for (int64_t position = 0; position < operation.out[0] * operation.out[1]; ++position) {
            if (starts[position] == starts[position + 1]) continue;
            // where the products with each weight of a row belong, for this position
            targets.assign(padded, -1);
            bool is_reached = false;
            operation.axes[0].each(position / operation.out[1], [&](int64_t tap_y, int64_t place_y) {
                operation.axes[1].each(position % operation.out[1], [&](int64_t tap_x, int64_t place_x) {
                    const int64_t place = place_y * operation.in[1] + place_x;
                    if (place < low || place >= high) return;
                    is_reached = true;
                    const int64_t weight = (tap_y * operation.kernel_width + tap_x) * in;
                    for (int64_t c = 0; c < in; ++c) targets[weight + c] = ((place - low) * all + c) * PADDED;
                });
            });
            if (!is_reached) continue;
            for (int32_t first = starts[position], end = first; first < starts[position + 1]; first = end) {
                const int64_t in_group = channels[first] / operation.out_channels;
                const int64_t from = in_group * operation.out_channels, to = from + operation.out_channels;
                while (end < starts[position + 1] && channels[end] >= from && channels[end] < to) ++end;
                for (int64_t n = 0; n < padded; n += BLOCK) {
                    Vector block[BLOCK] = {};
                    for (int32_t row = first; row < end; ++row) {
                        const auto weights = operation.weights.part(channels[row] * padded + n, BLOCK);
                        const auto value = rows.part(base + row * width, PADDED);
                        const auto vector = *reinterpret_cast<const Vector*>(value.data);
#pragma GCC unroll 16
                        for (int lane = 0; lane < BLOCK; ++lane) block[lane] += weights[lane] * vector;
                    }
                    for (int lane = 0; lane < BLOCK; ++lane) {
                        if (targets[n + lane] < 0) continue;
                        const auto target = sums.all().part(targets[n + lane] + in_group * in * PADDED, PADDED);
                        *reinterpret_cast<Vector*>(target.data) += block[lane];
                    }
                }
            }
        }
    }

    // A position of the input and a panel of neighboring channels, whose sums fit into vectors.
    struct Spot {
        const Operation& operation;
        View<const int32_t> channels;  // of the lanes
        int64_t first_channel;         // of the output
        View<const T> weights{};
        int64_t element = 0, row_step = 0, image = 0, y = 0, x = 0;
    };

    // Convolutions and linear layers: each position of the input sums over the rows that reach it, for a panel of input
    // channels at a time. The channels are sorted by how often they are needed, so that many panels are not needed at
    // all. Weights: (group, panel, tap, output channel, lane).
    void gather(const Operation& operation) {
        const int64_t size = operation.taps * operation.out_channels * LANES, in = operation.in_channels;
        const int64_t panels = (in + LANES - 1) / LANES;
        const auto sum = summation<MOST_COTANGENTS>();
        for (int64_t number = 0; number < panels * operation.groups; ++number) {
            const int64_t in_group = number / panels, low = number % panels * LANES, used = std::min(LANES, in - low);
            Spot at{operation, operation.order.part(in_group * in + low, used), in_group * operation.out_channels};
            // a matrix can be read as it is, except for a last panel that its rows do not fill
            const bool is_natural = operation.tail.size && used == LANES;
            at.row_step = is_natural ? in : LANES;
            if (is_natural) at.weights = operation.weights.part(low, operation.weights.size - low);
            else at.weights = operation.tail.size ? operation.tail : operation.weights.part(number * size, size);
            for (at.image = 0; at.image < images; ++at.image) {
                const auto to = sink(operation.edges[0], at.image);
                for (at.y = at.element = 0; at.y < operation.in[0]; ++at.y)
                    for (at.x = 0; at.x < operation.in[1]; ++at.x, at.element += operation.position_step)
                        gather_position(at, to, sum);
            }
        }
    }

    // The function for a block of `width` cotangents. Only that is compiled for each width, since compiling takes time.
    using Summation = void (Runner::*)(const Spot&, T*) const;
    template <int K> Summation summation() const {
        return K > 1 && width < K ? summation<std::max(K - 1, 1)>() : &Runner::sum_panel<K>;
    }

    __attribute__((noinline)) void gather_position(const Spot& at, const Sink& to, Summation sum) const {
        const int64_t step = at.operation.channel_step;
        int32_t active[LANES];  // lanes whose results are needed
        int64_t count = 0;
        // channels are neighbors in the Jacobian, too, and all are needed
        const bool is_direct = edges[at.operation.edges[0]].target < 0 && !to.is_merged && step == 1;
        for (int64_t lane = 0; !is_direct && lane < at.channels.size; ++lane) {
            active[count] = static_cast<int32_t>(lane);
            count += to.rows[at.element + at.channels[lane] * step] >= 0;
        }
        if (!count && !is_direct) return;
        alignas(64) T results[std::max<int64_t>(MOST_COTANGENTS * LANES, FEW * WIDEST)];
        if (is_direct || count > FEW) (this->*sum)(at, results);
        else if (count > 2) sum_few<FEW>(at, active, count, results);
        else sum_few<2>(at, active, count, results);
        for (int64_t k = 0; is_direct && k < width; ++k) {
            const auto row = to.to.part(k * inputs + at.element + at.channels[0], at.channels.size);
            std::copy_n(results + k * LANES, row.size, row.data);
        }
        for (int64_t n = 0; n < count; ++n) {
            const int64_t element = at.element + at.channels[active[n]] * step;
            if (count <= FEW) deposit(to, element, results + n * WIDEST);
            else deposit(to, element, results + active[n], LANES);
        }
    }

    // Call `act` with the weights and the values of each row that reaches a position of the input.
    template <class Act> INLINE void each_row(const Spot& at, int64_t size, Act act) const {
        const auto& operation = at.operation;
        const auto& slot = slots[operation.slot];
        const auto& made = slot.images[at.image];
        const auto starts = made.starts.all(), channels = made.channels.all(), offsets = made.offsets.all();
        const auto rows = slot.values.all();
        const int64_t base = slot.bases[at.image], step = at.row_step;
        const int64_t first = at.first_channel, last = first + operation.out_channels;
        const auto& across = operation.axes[1];
        operation.axes[0].each(at.y, [&](int64_t tap, int64_t place) INLINE_LAMBDA {
            for (int32_t n = across.starts[at.x]; n < across.starts[at.x + 1]; ++n) {
                const int64_t low = (tap * operation.kernel_width + across.sum[n]) * operation.out_channels - first;
                const int64_t line = place * operation.out[1];
                const int32_t end = starts[line + across.last[n] + 1];
                for (int32_t row = starts[line + across.first[n]]; row < end; ++row) {
                    if (operation.groups > 1 && (channels[row] < first || channels[row] >= last)) continue;
                    const auto weights = at.weights.part((low + offsets[row]) * step, LANES);
                    act(weights.data, rows.part(base + row * size, size).data);
                }
            }
        });
    }

    // All lanes of a panel: vectorized over them, with the sums of all cotangents in registers; (cotangent, lane).
    template <int K> void sum_panel(const Spot& at, T* results) const {
        typedef T Vector __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
        Vector totals[K] = {};
        each_row(at, K, [&](const T* weights, const T* value) INLINE_LAMBDA {
            const Vector panel = *reinterpret_cast<const Vector*>(weights);
#pragma GCC unroll 16
            for (int k = 0; k < K; ++k) totals[k] += panel * value[k];
        });
        std::memcpy(results, totals, sizeof totals);
    }

    // A few lanes of a panel: vectorized over the cotangents, with one sum per lane; (lane, cotangent). Each sum has
    // the same order as in `sum_panel`, so that the bits do not depend on the choice.
    template <int N> void sum_few(const Spot& at, const int32_t* active, int64_t count, T* results) const {
        typedef T Vector __attribute__((vector_size(WIDEST * sizeof(T)), aligned(sizeof(T)), may_alias));
        int64_t lanes[N];
        for (int n = 0; n < N; ++n) lanes[n] = active[n < count ? n : 0];
        Vector totals[N] = {};
        each_row(at, width, [&](const T* weights, const T* value) INLINE_LAMBDA {
            const Vector row = *reinterpret_cast<const Vector*>(value);
#pragma GCC unroll 16
            for (int n = 0; n < N; ++n) totals[n] += weights[lanes[n]] * row;
        });
        std::memcpy(results, totals, sizeof totals);
    }
};

// Run a program for the images first … last - 1; `output` points at the first one's (output, input). Returns 0, or 2 if
// there is not enough memory, or 1 for any other error, whose text goes to the `room` bytes at `text`.
template <class T>
int run(const int64_t* words, int64_t size, int64_t first, int64_t last, T* output, char* text, int64_t room) {
    try {
        return Runner<T>(Reader{{words, size}}).run(first, last, output), 0;
    } catch (const std::bad_alloc&) {
        return std::snprintf(text, room, "not enough memory"), 2;
    } catch (const std::exception& error) {
        return std::snprintf(text, room, "%s", error.what()), 1;
    }
}
}  // namespace

extern "C" {
using Words = const int64_t*;
int64_t pellucid_abi() { return 1; }
int64_t pellucid_vector_bytes() { return VECTOR_BYTES; }  // they decide how weights are packed into panels
int pellucid_run_float(Words words, int64_t size, int64_t first, int64_t last, float* to, char* text, int64_t room) {
    return run(words, size, first, last, to, text, room);
}
int pellucid_run_double(Words words, int64_t size, int64_t first, int64_t last, double* to, char* text, int64_t room) {
    return run(words, size, first, last, to, text, room);
}
}
