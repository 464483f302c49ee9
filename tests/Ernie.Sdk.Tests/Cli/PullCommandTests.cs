using System.Text;
using Ernie.Cli;
using Ernie.Cli.Pulling;

namespace Ernie.Sdk.Tests.Cli;

/// <summary>Downloads from servers that behave, and from servers that do not.</summary>
public sealed class PullCommandTests : IDisposable
{
    private const string Shard = "model-00001-of-00002.safetensors";
    private readonly FakeHub _hub = new();
    private readonly TemporaryFolder _folder = new();

    public void Dispose()
    {
        _hub.Dispose();
        _folder.Dispose();
    }

    private string Target => _folder.File("model");

    private Task<CommandRun> PullAsync(params string[] options) => CommandRun.Async(["pull", FakeHub.Repository, Target, "--base-url", _hub.Url, .. options]);

    [Theory]
    [InlineData("huggingface")]
    [InlineData("modelscope")]
    public async Task Hub_GivesWhatACheckpointNeeds(string hub)
    {
        var run = (await PullAsync("--from", hub)).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
        Assert.Contains("6 files", run.Out, StringComparison.Ordinal);
        Assert.Contains("6 downloaded, 0 were there. All have the hashes", run.Out, StringComparison.Ordinal);
        Assert.Empty(run.Error);
    }

    [Fact]
    public async Task WebFolder_NeedsNoListing()
    {
        var run = (await CommandRun.Async("pull", _hub.Url + "/plain", Target)).Succeeded();
        Assert.EndsWith("6 downloaded, 0 were there. The source gives no hashes, so contents could not be checked.\n", run.Out, StringComparison.Ordinal);
        _hub.AssertPulled(Target, FakeHub.Wanted);
    }

    [Fact]
    public async Task LocalFolder_IsCopied()
    {
        foreach (var (name, content) in _hub.Files)
        {
            Directory.CreateDirectory(Path.GetDirectoryName(_folder.File("source/" + name))!);
            await File.WriteAllBytesAsync(_folder.File("source/" + name), content, TestContext.Current.CancellationToken);
        }
        (await CommandRun.Async("pull", _folder.File("source"), Target)).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
        var same = await CommandRun.Async("pull", Target, Target);
        Assert.Equal(ExitCode.BadInput, same.ExitCode);
    }

    [Fact]
    public async Task SecondPull_DownloadsOnlyWhatIsMissingOrWrong()
    {
        (await PullAsync()).Succeeded();
        var again = (await PullAsync()).Succeeded();
        Assert.Contains("0 downloaded, 6 were there", again.Out, StringComparison.Ordinal);
        var damaged = await File.ReadAllBytesAsync(Path.Combine(Target, Shard), TestContext.Current.CancellationToken);
        damaged[1000] ^= 1;
        await File.WriteAllBytesAsync(Path.Combine(Target, Shard), damaged, TestContext.Current.CancellationToken);
        File.Delete(Path.Combine(Target, "tokenizer.model"));
        var repaired = (await PullAsync()).Succeeded();
        Assert.Contains("2 downloaded, 4 were there", repaired.Out, StringComparison.Ordinal);
        _hub.AssertPulled(Target, FakeHub.Wanted);
    }

    [Fact]
    public async Task IncludeAndExclude_Choose()
    {
        (await PullAsync("--include", "*.json", "--include", "figures/*", "--exclude", "*index*")).Succeeded();
        _hub.AssertPulled(Target, "config.json", "figures/quality.txt");
        var none = await PullAsync("--include", "*.gguf");
        Assert.Equal(ExitCode.BadInput, none.ExitCode);
        Assert.Contains("--include", none.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task BrokenConnections_AreResumed_EachFromWhereItBroke()
    {
        // The first three answers for each shard end early.
        _hub.Fault = static (name, _, count, answer) => name.EndsWith(".safetensors", StringComparison.Ordinal) && count <= 3 ? answer with { CutAfter = 50_000 } : answer;
        (await PullAsync("--retries", "1", "--parallel", "2")).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
        Assert.Equal([null, "bytes=50000-", "bytes=100000-", "bytes=150000-"], _hub.RequestsFor(Shard).Select(static r => r.Header("Range")));
        Assert.Equal($"\"{Shard}\"", _hub.RequestsFor(Shard).Last().Header("If-Range"));
    }

    [Fact]
    public async Task ServerWithoutRanges_StartsOver()
    {
        var whole = _hub.Files[Shard];
        _hub.Fault = (name, _, count, answer) => name != Shard ? answer : new FileAnswer(200, whole) { CutAfter = count == 1 ? 70_000 : null };
        (await PullAsync()).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
        Assert.Equal(2, _hub.RequestsFor(Shard).Count());
    }

    [Fact]
    public async Task AbandonedPull_GoesOnFromItsPart()
    {
        _hub.Fault = static (name, _, count, answer) => name != Shard ? answer : count == 1 ? answer with { CutAfter = 123_456 } : new FileAnswer(502, []);
        var first = await PullAsync("--retries", "0");
        Assert.Equal(ExitCode.BadInput, first.ExitCode);
        Assert.Contains("the same command goes on from there", first.Error, StringComparison.Ordinal);
        Assert.False(File.Exists(Path.Combine(Target, Shard)));
        Assert.Equal(123_456, new FileInfo(Path.Combine(Target, Shard + ".part")).Length);
        _hub.Fault = static (_, _, _, answer) => answer;
        (await PullAsync()).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
        Assert.Equal("bytes=123456-", _hub.RequestsFor(Shard).Last().Header("Range"));
    }

    [Theory]
    [InlineData("Sun, 29 Nov 2026 06:00:00 GMT", true)]
    [InlineData("Sun, 29 Nov 2026 06:59:30 GMT", false)]
    [InlineData(null, false)]
    public async Task ServerWithoutETag_IsResumedByItsDate_WhereThatIsOldEnough(string? modified, bool resumes)
    {
        const string Now = "Sun, 29 Nov 2026 07:00:00 GMT";
        (string, string)[] headers = modified is null ? [("Date", Now)] : [("Date", Now), ("Last-Modified", modified)];
        var cut = true;
        _hub.Fault = (name, request, _, _) =>
        {
            var answer = FileAnswer.Of(_hub.Files[name], request, modified);
            var body = name == Shard && cut ? answer with { CutAfter = 123_456 } : answer;
            return body with { Headers = [.. body.Headers.Where(static h => h.Name != "ETag"), .. headers] };
        };
        string[] pull = ["pull", _hub.Url + "/plain/", Target, "--retries", "0", "--parallel", "1"];
        var first = await CommandRun.Async(pull);
        Assert.Equal(ExitCode.BadInput, first.ExitCode);
        Assert.Contains(resumes ? "What has arrived is kept; the same command goes on from there." : "gives nothing to resume by", first.Error, StringComparison.Ordinal);
        Assert.Contains($"/plain/{Shard}:", first.Error, StringComparison.Ordinal);
        cut = false;
        (await CommandRun.Async(pull)).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
        Assert.Equal(resumes ? ("bytes=123456-", modified) : (null, null), (_hub.RequestsFor(Shard).Last().Header("Range"), _hub.RequestsFor(Shard).Last().Header("If-Range")));
    }

    [Fact]
    public async Task MistypedFolder_IsNotLookedForOnAHub()
    {
        Directory.CreateDirectory(_folder.File("models"));
        var run = await CommandRun.Async("pull", _folder.File("models/nothere"), Target);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("There is no folder", run.Error, StringComparison.Ordinal);
        Assert.Contains("--from huggingface", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task PartOfAnotherVersion_IsNotMixedIn()
    {
        _hub.Fault = static (name, _, count, answer) => name == Shard ? (count == 1 ? answer with { CutAfter = 1000 } : new FileAnswer(503, [])) : answer;
        Assert.Equal(ExitCode.BadInput, (await PullAsync("--retries", "0")).ExitCode);
        Array.Reverse(_hub.Files[Shard]);
        _hub.Fault = static (_, _, _, answer) => answer;
        (await PullAsync()).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
    }

    [Fact]
    public async Task DamagedPart_IsDownloadedOnceMore()
    {
        _hub.Fault = static (name, _, count, answer) => name == Shard ? (count == 1 ? answer with { CutAfter = 1000 } : new FileAnswer(503, [])) : answer;
        Assert.Equal(ExitCode.BadInput, (await PullAsync("--retries", "0")).ExitCode);
        await File.WriteAllBytesAsync(Path.Combine(Target, Shard + ".part"), new byte[1000], TestContext.Current.CancellationToken);
        _hub.Fault = static (_, _, _, answer) => answer;
        (await PullAsync()).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
    }

    [Theory]
    [InlineData(429)]
    [InlineData(503)]
    public async Task BusyServer_IsAskedAgain_AfterTheTimeItNames(int status)
    {
        _hub.Fault = (_, _, count, answer) => count == 1 ? new FileAnswer(status, [], ("Retry-After", "1")) : answer;
        var start = System.Diagnostics.Stopwatch.GetTimestamp();
        (await PullAsync("--parallel", "8")).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
        // At least a second for the index, and one for the files that follow it.
        Assert.True(System.Diagnostics.Stopwatch.GetElapsedTime(start) > TimeSpan.FromSeconds(1.9));
    }

    [Fact]
    public async Task ServerThatAsksForHours_IsNotWaitedFor()
    {
        _hub.Fault = static (_, _, _, _) => new FileAnswer(429, [], ("Retry-After", "7200"));
        var run = await PullAsync();
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("2:00:00", run.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(299_999, null)]
    [InlineData(300_001, null)]
    [InlineData(-1, 300_700)]
    public async Task LengthThatIsALie_IsRefused_AndNothingIsLeft(int announced, int? sent)
    {
        var content = _hub.Files[Shard];
        if (sent is { } count) content = [.. content, .. new byte[count - content.Length]];
        _hub.Fault = (name, _, _, answer) => name == Shard ? new FileAnswer(200, content) { AnnouncedLength = announced } : answer;
        var run = await PullAsync("--retries", "1");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains(Shard, run.Error, StringComparison.Ordinal);
        Assert.Contains("300000", run.Error, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFiles(Target, Shard + "*"));
    }

    [Theory]
    [InlineData(Shard)]
    [InlineData("tokenizer.model")]
    public async Task WrongContent_IsDeletedAndNamed(string file)
    {
        _hub.Fault = (name, _, _, answer) =>
        {
            if (name == file) answer.Body[answer.Body.Length / 2] ^= 0x10;
            return answer;
        };
        _hub.List = request => request.Path.StartsWith("/api/", StringComparison.Ordinal) ? new FileAnswer(200, Encoding.UTF8.GetBytes(_listed ??= _hub.Tree())) : null;
        var run = await PullAsync();
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains($"{FakeHub.Repository}/{file} arrived damaged and was deleted", run.Error, StringComparison.Ordinal);
        Assert.Empty(Directory.GetFiles(Target, file + "*"));
    }

    private string? _listed;

    [Fact]
    public async Task HashOfTheAnswer_IsCheckedWhereTheListHasNone()
    {
        _hub.Fault = static (name, _, _, answer) => name == "tokenizer.model" ? answer with { Headers = [.. answer.Headers, ("X-Linked-Etag", $"\"{new string('a', 64)}\"")] } : answer;
        var run = await CommandRun.Async("pull", _hub.Url + "/plain/", Target);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("tokenizer.model arrived damaged", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Redirect_ToAnotherHost_GetsTheRangeButNotTheToken()
    {
        var count = 0;
        using var cdn = new FileServer(request => FileAnswer.Of(_hub.Files[Shard], request, "\"cdn\"") with { CutAfter = ++count == 1 ? 10_000 : null });
        _hub.Fault = (name, _, _, answer) => name == Shard ? new FileAnswer(302, [], ("Location", cdn.Url.Replace("127.0.0.1", "localhost", StringComparison.Ordinal) + "/blob?signature=x")) : answer;
        (await PullAsync("--token", "hf_secret")).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
        Assert.All(_hub.Requests, static r => Assert.Equal("Bearer hf_secret", r.Header("Authorization")));
        Assert.Equal([null, "bytes=10000-"], cdn.Requests.Select(static r => r.Header("Range")));
        Assert.Equal("\"cdn\"", cdn.Requests[1].Header("If-Range"));
        Assert.All(cdn.Requests, static r => Assert.Null(r.Header("Authorization")));
    }

    [Fact]
    public async Task EndlessRedirects_End()
    {
        _hub.Fault = static (name, _, _, answer) => name == Shard ? new FileAnswer(302, [], ("Location", $"/{FakeHub.Repository}/resolve/main/{Shard}")) : answer;
        var run = await PullAsync();
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("redirects", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Redirect_ToAFile_IsRefused()
    {
        _hub.Fault = static (name, _, _, answer) => name == Shard ? new FileAnswer(302, [], ("Location", "file:///etc/passwd")) : answer;
        var run = await PullAsync();
        Assert.Contains("not secure", run.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(404, "not found (404)", FakeHub.Repository)]
    [InlineData(401, "(401)", "--token")]
    [InlineData(403, "(403)", "terms")]
    [InlineData(418, "unexpected answer 418", FakeHub.Repository)]
    public async Task RefusedListing_SaysWhatHelps(int status, string what, string cure)
    {
        _hub.List = _ => new FileAnswer(status, []);
        var run = await PullAsync();
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains(what, run.Error, StringComparison.Ordinal);
        Assert.Contains(cure, run.Error, StringComparison.Ordinal);
        Assert.Single(_hub.Requests);
        Assert.False(Directory.Exists(Target));
    }

    [Theory]
    [InlineData("../evil.json")]
    [InlineData("/etc/evil.json")]
    [InlineData("a/../../evil.json")]
    [InlineData("..\\evil.json")]
    [InlineData("C:evil.json")]
    [InlineData("NUL.json")]
    [InlineData("a//evil.json")]
    [InlineData("evil.json.")]
    [InlineData("")]
    public void PathThatLeavesTheFolder_IsRefused(string path) => Assert.Throws<InvalidDataException>(() => RepositoryPath.Below(Target, path));

    [Theory]
    [InlineData("../config.json")]
    [InlineData("/tmp/config.json")]
    [InlineData("x/../../config.json")]
    public async Task ListedPathThatLeavesTheFolder_DownloadsNothing(string path)
    {
        _hub.List = request => request.Path.StartsWith("/api/", StringComparison.Ordinal) ? new FileAnswer(200, Encoding.UTF8.GetBytes(_hub.Tree(p => p == "config.json" ? path : p))) : null;
        var run = await PullAsync("--include", "*");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("do not trust", run.Error, StringComparison.Ordinal);
        Assert.Single(_hub.Requests);
        Assert.False(Directory.Exists(Target));
    }

    [Theory]
    [InlineData("<html>")]
    [InlineData("{}")]
    [InlineData("[1]")]
    [InlineData("""[{"type":"file","path":"config.json","size":-1}]""")]
    [InlineData("""[{"type":"file","path":"config.json","size":1,"lfs":{"oid":"zz","size":1}}]""")]
    public async Task ListingThatIsNone_IsNamed(string json)
    {
        _hub.List = _ => new FileAnswer(200, Encoding.UTF8.GetBytes(json));
        var run = await PullAsync();
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("list of files", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task LongListing_IsReadPageByPage()
    {
        var entries = System.Text.Json.JsonDocument.Parse(_hub.Tree()).RootElement.EnumerateArray().Select(static e => e.GetRawText()).ToArray();
        _hub.List = request => !request.Path.StartsWith("/api/", StringComparison.Ordinal) ? null
            : request.Path.EndsWith("cursor=2", StringComparison.Ordinal) ? new FileAnswer(200, Encoding.UTF8.GetBytes($"[{string.Join(',', entries[4..])}]"))
            : new FileAnswer(200, Encoding.UTF8.GetBytes($"[{string.Join(',', entries[..4])}]"), ("Link", $"<{_hub.Url}/api/more?cursor=2>; rel=\"next\""));
        (await PullAsync()).Succeeded();
        _hub.AssertPulled(Target, FakeHub.Wanted);
    }

    [Fact]
    public async Task IndexThatNamesAMissingShard_IsRefusedBeforeTheWeights()
    {
        _hub.Files.Remove("model-00002-of-00002.safetensors");
        var run = await PullAsync();
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("model-00002-of-00002.safetensors", run.Error, StringComparison.Ordinal);
        Assert.Empty(_hub.RequestsFor(Shard));
    }

    [Fact]
    public async Task DiskThatIsTooSmall_IsToldBeforeTheDownload()
    {
        using var disk = new TemporaryMount("256k");
        var run = await CommandRun.Async("pull", FakeHub.Repository, Path.Combine(disk.Path, "model"), "--base-url", _hub.Url);
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("are needed", run.Error, StringComparison.Ordinal);
        Assert.Empty(_hub.RequestsFor(Shard));
    }

    [Fact]
    public async Task DiskThatFillsUp_IsNamed_AndThePartKept()
    {
        using var disk = new TemporaryMount("400k");
        // Without lengths nobody knows before.
        _hub.Fault = static (_, _, _, answer) => answer with { AnnouncedLength = -1 };
        var run = await CommandRun.Async("pull", _hub.Url + "/plain/", Path.Combine(disk.Path, "model"), "--parallel", "1");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("cannot be written", run.Error, StringComparison.Ordinal);
        Assert.Contains(".safetensors", run.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("ERNIE")]
    [InlineData("../x")]
    [InlineData("a/b/c")]
    [InlineData("ftp://example.org/x")]
    public async Task SourceThatIsNone_IsRefused(string source) => Assert.Equal(ExitCode.BadInput, (await CommandRun.Async("pull", source, Target)).ExitCode);

    [Fact]
    public async Task Token_IsNotSentInTheClear()
    {
        var run = await CommandRun.Async("pull", FakeHub.Repository, Target, "--base-url", "http://mirror.example", "--token", "x");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("plain http", run.Error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task UnreachableServer_IsNamed()
    {
        using var gone = new FileServer(static _ => new FileAnswer(200, []));
        gone.Dispose();
        var run = await CommandRun.Async("pull", FakeHub.Repository, Target, "--base-url", gone.Url, "--retries", "1");
        Assert.Equal(ExitCode.BadInput, run.ExitCode);
        Assert.Contains("cannot be reached", run.Error, StringComparison.Ordinal);
    }
}
