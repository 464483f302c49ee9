namespace Ernie.Sdk;

/// <summary>Which chat format a model was trained on.</summary>
public enum ErnieChatTemplate
{
    /// <summary>The model's own template (<c>chat_template.jinja</c>, or <c>chat_template</c> in <c>tokenizer_config.json</c>); without one, the format that its vocabulary tells.</summary>
    Auto,

    /// <summary><c>User: … / Assistant: …</c>, the format of the 0.3B, 21B and 300B chat models.</summary>
    Standard,

    /// <summary><c>&lt;|im_start|&gt;</c> turns with thinking and tools, the format of 21B-A3B-Thinking.</summary>
    Thinking,
}
